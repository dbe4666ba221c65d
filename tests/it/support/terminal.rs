//! A terminal: a program that runs in it, what is on its screen, and its keys.

use super::run::Cmd;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a test waits for something on the screen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A terminal in which a program runs; the program is killed when this is dropped.
pub(crate) struct Terminal {
    keys: File,
    child: Child,
    screen: Arc<Mutex<Screen>>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Starts a command in a terminal that is `columns` wide.
    pub(crate) fn start(cmd: Cmd, columns: u16) -> Self {
        super::need_tool("setsid", "apt-get install util-linux");
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&keys).unwrap();
        unlockpt(&keys).unwrap();
        let name = ptsname(&keys, Vec::new()).unwrap();
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(name.as_bytes()));
        let noctty = rustix::fs::OFlags::NOCTTY.bits() as i32;
        let tty = File::options().read(true).write(true).custom_flags(noctty).open(path).unwrap();
        set_size(&tty, columns);
        // With the terminal as its own, it gets the signals of keys and of a change of size.
        let mut command = cmd.wrap(args!["setsid", "--ctty"]).command();
        let stdio = || std::process::Stdio::from(tty.try_clone().unwrap());
        let child = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        drop(command);
        let keys = File::from(keys);
        let screen = Arc::new(Mutex::new(Screen::new(columns.into())));
        let (mut output, shown) = (keys.try_clone().unwrap(), screen.clone());
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Ends with an error when the program has closed the terminal.
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                shown.lock().unwrap().feed(&buffer[..count]);
            }
        });
        Self { keys, child, screen, reader: Some(reader) }
    }

    /// Presses a key.
    pub(crate) fn press(&mut self, key: u8) {
        self.keys.write_all(&[key]).unwrap();
    }

    /// Makes the window narrower or wider; lines are wrapped again.
    pub(crate) fn resize(&self, columns: u16) {
        let mut screen = self.screen.lock().unwrap();
        set_size(&self.keys, columns);
        screen.resize(columns.into());
    }

    /// Looks at the screen.
    pub(crate) fn screen<T>(&self, look: impl FnOnce(&Screen) -> T) -> T {
        look(&self.screen.lock().unwrap())
    }

    /// Waits until the screen is as `is_there` wants it.
    #[track_caller]
    pub(crate) fn wait_for(&self, is_there: impl Fn(&Screen) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !self.screen(&is_there) {
            assert!(Instant::now() < end, "not on the screen:\n{}", self.screen(|s| s.lines().join("\n")));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the program has ended; gives its exit code.
    pub(crate) fn wait(&mut self) -> i32 {
        let code = self.child.wait().unwrap().code().unwrap();
        self.reader.take().unwrap().join().unwrap();
        code
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn set_size(tty: &File, columns: u16) {
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(tty, size).unwrap();
}

#[derive(Default, Clone)]
struct Row {
    text: Vec<char>,
    /// The next row goes on with it.
    wraps: bool,
}

/// What is on the screen, which is as high as it has to be.
pub(crate) struct Screen {
    columns: usize,
    rows: Vec<Row>,
    row: usize,
    column: usize,
    wraps: bool,
    /// An escape sequence that is not complete yet.
    escape: String,
    /// How many changes of colour there were.
    pub(crate) colours: usize,
    /// How many rows ever had progress at the same time, and the text of the longest one.
    pub(crate) most_progress_rows: usize,
    pub(crate) longest_progress: String,
}

impl Screen {
    fn new(columns: usize) -> Self {
        Self {
            columns,
            rows: vec![Row::default()],
            row: 0,
            column: 0,
            wraps: true,
            escape: String::new(),
            colours: 0,
            most_progress_rows: 0,
            longest_progress: String::new(),
        }
    }

    /// The lines, however many rows each of them takes, without empty ones at the end.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![String::new()];
        for row in &self.rows {
            lines.last_mut().unwrap().extend(&row.text);
            if !row.wraps {
                lines.push(String::new());
            }
        }
        let mut lines: Vec<String> = lines.iter().map(|line| line.trim_end().to_owned()).collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }

    /// Where the cursor is: row and column, from 0.
    pub(crate) fn cursor(&self) -> (usize, usize) {
        (self.row, self.column)
    }

    /// The rows with progress, or parts of it.
    pub(crate) fn progress_rows(&self) -> Vec<String> {
        let texts = self.rows.iter().map(|row| row.text.iter().collect::<String>());
        let phases = ["asking  ", "indexing  ", "sending  ", "verifying  ", "stopping  "];
        let is_progress = |text: &String| {
            text.contains("ETA ")
                || text.contains("elapsed")
                || phases.iter().any(|phase| text.starts_with(phase))
        };
        texts.filter(is_progress).collect()
    }

    fn feed(&mut self, bytes: &[u8]) {
        for c in String::from_utf8_lossy(bytes).chars() {
            match c {
                _ if !self.escape.is_empty() => self.escape(c),
                '\x1b' => self.escape.push(c),
                '\r' => self.column = 0,
                '\n' => self.row += 1,
                c if c.is_control() => panic!("unexpected on the screen: {c:?}"),
                c => self.put(c),
            }
            while self.rows.len() <= self.row {
                self.rows.push(Row::default());
            }
            let progress = self.progress_rows();
            self.most_progress_rows = self.most_progress_rows.max(progress.len());
            for text in progress.iter().map(|text| text.trim_end()) {
                if text.len() > self.longest_progress.len() {
                    self.longest_progress = text.to_owned();
                }
            }
        }
    }

    fn escape(&mut self, c: char) {
        self.escape.push(c);
        if !(c.is_ascii_alphabetic() || c == '~') {
            return;
        }
        match std::mem::take(&mut self.escape).as_str() {
            "\x1b[K" => self.rows[self.row].text.truncate(self.column),
            "\x1b[J" => {
                self.rows[self.row].text.truncate(self.column);
                self.rows[self.row].wraps = false;
                self.rows.truncate(self.row + 1);
            }
            "\x1b[?7l" => self.wraps = false,
            "\x1b[?7h" => self.wraps = true,
            colour if colour.ends_with('m') => self.colours += 1,
            other => panic!("unexpected on the screen: {other:?}"),
        }
    }

    fn put(&mut self, c: char) {
        if self.column >= self.columns {
            if self.wraps {
                self.rows[self.row].wraps = true;
                (self.row, self.column) = (self.row + 1, 0);
                if self.rows.len() <= self.row {
                    self.rows.push(Row::default());
                }
            } else {
                self.column = self.columns - 1;
            }
        }
        let (row, column) = (&mut self.rows[self.row], self.column);
        while row.text.len() <= column {
            row.text.push(' ');
        }
        row.text[column] = c;
        self.column += 1;
    }

    /// As terminals do that wrap their lines again.
    fn resize(&mut self, columns: usize) {
        let (mut rows, mut start) = (Vec::new(), 0);
        let mut cursor = None;
        while start < self.rows.len() {
            let wrapped = self.rows[start..].iter().take_while(|row| row.wraps).count();
            let end = (start + wrapped + 1).min(self.rows.len());
            let line: Vec<char> = self.rows[start..end].iter().flat_map(|row| row.text.clone()).collect();
            if (start..end).contains(&self.row) {
                let before: usize = self.rows[start..self.row].iter().map(|row| row.text.len()).sum();
                let at = before + self.column;
                cursor = Some((rows.len() + at / columns, at % columns));
            }
            let line = line.iter().collect::<String>().trim_end().chars().collect::<Vec<_>>();
            let pieces: Vec<&[char]> = line.chunks(columns).collect();
            for (at, piece) in pieces.iter().enumerate() {
                rows.push(Row { text: piece.to_vec(), wraps: at + 1 < pieces.len() });
            }
            if pieces.is_empty() {
                rows.push(Row::default());
            }
            start = end;
        }
        (self.row, self.column) = cursor.unwrap();
        (self.rows, self.columns) = (rows, columns);
        // A line that is longer than the window for a moment is not the program's.
        while self.rows.len() <= self.row {
            self.rows.push(Row::default());
        }
    }
}
