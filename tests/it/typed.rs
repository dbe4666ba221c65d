//! Command lines of rsync, rclone, restic, s5cmd or a cloud's own program: the program does what
//! they mean, or says what to type instead, and never does harm.

use crate::support::{Lab, Tree, assert_same_tree};

/// The effect of a command line.
enum Becomes {
    /// DST equals SRC; standard error has this text.
    Copy(&'static str),
    /// Exit code 0, standard output or error has this text, and there is no DST.
    Says(&'static str),
    /// Exit code 2, nothing is made, and standard error has this text.
    Refused(&'static str),
}
use Becomes::{Copy, Refused, Says};

/// SRC is a folder, DST does not exist.
const TYPED: &[(&str, Becomes)] = &[
    // rsync
    ("sync SRC DST", Copy("")),
    ("sync SRC/ DST", Copy("")),
    ("sync SRC/ DST/", Copy("")),
    ("sync SRC other SRC/b/new", Refused("lies in the source")),
    ("sync SRC host:/x DST", Refused("another host")),
    ("sync SRC SRC/b DST -db i.sqlite", Refused("is for one source")),
    ("sync SRC SRC/b DST --adopt", Refused("--adopt is for one source")),
    ("sync -a SRC DST", Copy("")),
    ("sync -av SRC DST", Copy("")),
    ("sync -avz SRC DST", Copy("")),
    ("sync -avh SRC DST", Copy("")),
    ("sync -avzh SRC DST", Copy("")),
    ("sync -avP SRC DST", Copy("")),
    ("sync -aP --delete SRC DST", Copy("")),
    ("sync -rltvz SRC DST", Copy("")),
    ("sync -rlptgoD SRC DST", Copy("-D: FIFOs, sockets and devices are not copied")),
    ("sync -aH SRC DST", Copy("")),
    ("sync -aHAX SRC DST", Copy("-A: ACLs are not copied")),
    ("sync -aX SRC DST", Copy("-X: extended attributes are not copied")),
    ("sync -aS SRC DST", Copy("-S: holes of sparse files arrive as zeros")),
    ("sync -aaaa SRC DST", Copy("")),
    ("sync -av -h SRC DST", Copy("")),
    ("sync -a --numeric-ids SRC DST", Copy("")),
    ("sync --archive --progress --partial --human-readable SRC DST", Copy("")),
    ("sync -a --checksum SRC DST", Copy("")),
    ("sync -a --bwlimit 10MB SRC DST", Copy("")),
    ("sync -a --bwlimit=1.5M SRC DST", Copy("")),
    ("sync -a -q SRC DST", Copy("")),
    ("sync --delete --max-delete 5 SRC DST", Copy("")),
    ("sync -n SRC DST", Says("would send")),
    ("sync -avn SRC DST", Says("would send")),
    ("sync -anvh SRC DST", Says("would send")),
    ("sync --dry-run SRC DST", Says("would send")),
    ("sync -e nowhere SRC host:/srv/copy", Refused("cannot start nowhere")),
    ("sync -e nowhere SRC host:", Refused("cannot start nowhere")),
    ("sync --rsh=nowhere SRC root@host:/x", Refused("cannot start nowhere")),
    ("sync SRC host:9000/tar", Refused("http://host:9000/tar")),
    ("sync SRC host::module/x", Refused("modules of an rsync daemon")),
    ("sync SRC http:/127.0.0.1:8000/tar", Refused("type http://127.0.0.1:8000/tar")),
    ("sync SRC https//host/tar", Refused("type https://host/tar")),
    ("sync s3:/bucket/x DST", Refused("type s3://bucket/x")),
    ("sync SRC/empty DST/empty", Refused("looks like a name for the file")),
    ("sync SRC/a DST/out.txt", Refused("type DST for DST/a")),
    ("sync SRC/a out.txt", Refused("out.txt/ for a folder")),
    ("sync SRC/empty SRC/a", Refused("is not a folder")),
    ("sync -a --delete --backup-dir /old SRC DST", Refused("by a relative path")),
    ("sync -a --delete --backup-dir ../old SRC DST", Refused("by a relative path")),
    ("sync SRC rsync://host/module", Refused("http://host:8000/tar")),
    ("sync SRC sftp://me@host/x", Refused("tar-like proxy -b FOLDER")),
    ("sync SRC file:///x", Refused("type its path: /x")),
    ("index -b http://host:8000/tar -db i.sqlite", Refused("s3://bucket/prefix")),
    ("check -b http://host:8000/tar", Refused("tar-like check on its host")),
    ("check http://host:8000/tar", Refused("tar-like check on its host")),
    ("index -b s3:/x -db i.sqlite", Refused("type s3://x")),
    ("plan http://host:8000/tar", Refused("no folder of this host")),
    ("proxy 0 -b s3://bucket/x", Refused("a folder of its own host")),
    ("proxy 0 -b host:/srv/copy", Refused("a folder of its own host")),
    ("sync -avze nowhere SRC host:/x", Refused("cannot start nowhere")),
    ("sync host:/srv DST", Refused("./host:/srv")),
    ("sync user@host:/srv/ DST", Refused("another host")),
    ("sync -ac SRC DST", Refused("--checksum")),
    ("sync -c SRC DST", Refused("--checksum")),
    ("sync -au SRC DST", Refused("newer")),
    ("sync -ax SRC DST", Refused("--one-file-system")),
    ("sync -avp SRC DST", Copy("")),
    ("sync -avp 3 SRC DST", Copy("")),
    ("sync -avpx SRC DST", Refused("--one-file-system")),
    ("sync -axHAX SRC DST", Refused("--one-file-system")),
    ("sync -avhu SRC DST", Refused("newer")),
    ("sync -as --info=progress2 SRC DST", Copy("")),
    ("sync -a --info=name1 SRC DST", Refused("-v names what is sent")),
    ("sync -ab --backup-dir=old SRC DST", Copy("")),
    ("sync -a --compress SRC DST", Copy("")),
    ("sync -a SRC DST --compress zstd", Copy("")),
    ("sync -a --compress-level=9 SRC DST", Refused("--compress HOW")),
    ("sync -aR SRC DST", Refused("DESTINATION/a/b")),
    ("sync -a --partial-dir=.part SRC DST", Refused("resumes by itself")),
    ("sync -p SRC DST", Refused("-p is the number of workers")),
    ("sync -a --delete-after SRC DST", Refused("--delete deletes when")),
    ("sync -a --delete-excluded SRC DST", Copy("")),
    ("sync -a --delete --delete-excluded --exclude=*.o SRC DST", Copy("--exclude '*.o' matched nothing")),
    ("sync -a --backup SRC DST", Refused("--backup-dir")),
    ("sync -a --exclude=*.pyc SRC DST", Copy("--exclude '*.pyc' matched nothing")),
    ("sync -a --exclude *.pyc --exclude .git SRC DST", Copy("--exclude '.git' matched nothing")),
    ("sync -a --include *.c SRC DST", Copy("")),
    ("sync -a --include */ --include * --exclude * SRC DST", Copy("")),
    ("sync -an --exclude=b/ SRC DST", Says("1 left out")),
    ("sync -an --exclude=* SRC DST", Says("3 left out")),
    ("sync -a --exclude-from list SRC DST", Refused("cannot read list")),
    ("sync -a --files-from list SRC DST", Refused("cannot read list")),
    ("sync -a --filter=-_*.o SRC DST", Refused("--exclude, --include")),
    ("sync -aF SRC DST", Refused("--filter-file .gitignore")),
    ("sync -a -C SRC DST", Refused("--filter-file .gitignore")),
    ("sync -a --from0 SRC DST", Refused("--files-from0")),
    ("sync -a --one-file-system SRC DST", Copy("")),
    ("sync -a -x *.pyc SRC DST", Refused("--exclude of sync and plan")),
    ("sync -a -x \\.pyc$ SRC DST", Copy("-x '\\.pyc$' matched nothing")),
    ("sync -a --max-size=10M --min-size 0 SRC DST", Copy("")),
    ("sync -a --inplace SRC DST", Refused("--append spot")),
    ("sync -a --append-verify SRC DST", Refused("--append spot")),
    ("sync -a --link-dest=../old SRC DST", Refused("--keep NUMBER")),
    ("sync -ai SRC DST", Copy("")),
    ("sync -avni SRC DST", Says("N\tf\t3000\ta")),
    ("sync -n --itemize-changes SRC DST", Says("N\tf\t2000\tb/c")),
    ("sync -nv SRC DST", Says("\nb/c\n")),
    ("sync -a --stats SRC DST", Copy("")),
    ("sync -aL SRC DST", Refused("links are copied as links")),
    ("sync -a --chmod=D755 SRC DST", Refused("copied as they are")),
    ("sync -a --remove-source-files SRC DST", Refused("nothing is ever deleted at the source")),
    ("sync -a --size-only SRC DST", Refused("--checksum reads every file")),
    ("sync -aWE --fsync --no-inc-recursive SRC DST", Copy("")),
    ("sync SRC DST --exclude", Refused("--exclude '*.tmp' leaves out files")),
    ("sync --exclude SRC DST", Refused("take the next argument as their pattern")),
    ("sync -b SRC DST", Refused("--backup-dir")),
    ("index -b SRC --exclude", Refused("regular expression")),
    ("indexes -b SRC", Refused("--source SOURCE names an index")),
    ("history -b SRC", Refused("--source SOURCE names an index")),
    ("check", Refused("tar-like check FOLDER")),
    ("check SRC DST", Refused("tar-like check COPY --source SOURCE")),
    ("rewind SRC DST", Refused("tar-like rewind COPY --source SOURCE")),
    ("history SRC", Refused("tar-like history --source SOURCE")),
    ("sync --timeout=30 SRC DST", Refused("--stall-timeout")),
    ("-avz SRC DST", Refused("tar-like")),
    ("SRC DST", Refused("tar-like --help")),
    ("upload --compress -p 3", Refused("tar-like upload --help")),
    ("check SRC -c", Refused("tar-like check --help")),
    ("ls -u", Refused("tar-like ls --help")),
    // rclone
    ("sync SRC DST --transfers 16", Refused("-p NUMBER")),
    ("sync SRC DST --checkers=16", Refused("-p NUMBER")),
    ("sync SRC DST -P", Copy("")),
    ("sync -e nowhere SRC remote:bucket/x", Refused("cannot start nowhere")),
    ("sync SRC DST --bwlimit 10MiB", Copy("")),
    ("sync SRC DST --interactive", Refused("--dry-run")),
    ("sync SRC DST --max-size 10M", Copy("")),
    ("sync SRC DST --max-age 7d", Refused("--newer 7d")),
    ("sync SRC DST --exclude *.tmp --include *.log", Copy("--exclude '*.tmp' matched nothing")),
    ("sync SRC DST --filter=-_*.o", Refused("--exclude, --include")),
    ("copy SRC DST", Refused("tar-like sync SOURCE DESTINATION")),
    ("serve http DST", Refused("tar-like proxy")),
    ("move SRC DST", Refused("tar-like sync SOURCE DESTINATION")),
    // restic, borg
    ("backup SRC --repo DST", Refused("tar-like sync SOURCE DESTINATION")),
    ("snapshots", Refused("tar-like history")),
    ("forget --prune", Refused("tar-like gc")),
    ("restore latest --target DST", Refused("history restore")),
    ("sync SRC DST --limit-upload 1000", Refused("--bwlimit RATE")),
    // s5cmd, aws, gsutil, mc
    ("cp SRC s3://bucket/prefix/", Refused("tar-like sync SOURCE DESTINATION")),
    ("sync SRC s3://bucket/prefix", Refused("the store's own program")),
    ("sync http://host:8000/tar DST", Refused("run sync on its host")),
    ("sync SRC DST --dryrun", Refused("--dry-run")),
    ("sync SRC DST --numworkers 64", Refused("-p NUMBER")),
    ("sync s3://bucket DST --endpoint-url http://127.0.0.1:1", Refused("--s3-endpoint URL")),
    ("mirror SRC DST", Refused("tar-like sync SOURCE DESTINATION")),
    // Any user
    ("index -v SRC -db i.sqlite", Says("indexed 3 files")),
    ("index -v SRC/ -db i.sqlite", Says("indexed 3 files")),
    ("index SRC -b SRC", Refused("cannot be used with")),
    ("plan SRC -db i.sqlite", Says("to send")),
    ("plan SRC/ -db i.sqlite", Says("to send")),
    ("plan SRC -b SRC", Refused("cannot be used with")),
    ("check SRC -b SRC", Refused("cannot be used with")),
    ("--version", Says("tar-like ")),
    ("-V", Says("tar-like ")),
    ("--help", Says("sync")),
    ("-h", Says("sync")),
    ("help sync", Says("DESTINATION")),
    ("sync --help", Says("DESTINATION")),
    ("sync -h", Says("DESTINATION")),
    ("sync SRC", Refused("DESTINATION")),
    ("sync", Refused("SOURCE")),
    ("sync SRC DST --colour", Refused("tar-like sync --help")),
    ("sync SRC DST --block-size 1..5M", Refused("1.5M")),
    ("synch SRC DST", Refused("tar-like --help")),
    ("gc", Refused("--base-folder")),
];

#[test]
fn what_people_type() {
    let mut wrong = Vec::new();
    for (line, becomes) in TYPED {
        if let Err(problem) = std::panic::catch_unwind(|| try_line(line, becomes)) {
            let text = problem.downcast_ref::<String>().cloned().unwrap_or_default();
            wrong.push(format!("{line}: {text}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), TYPED.len(), wrong.join("\n"));
    assert!(TYPED.len() >= 60);
}

fn try_line(line: &str, becomes: &Becomes) {
    let lab = Lab::new();
    let home = lab.path("home");
    Tree::new(&home.join("SRC"), 7).noise("a", 3000).text("b/c", 2000).file("empty", "");
    let output = lab.cmd(line.split(' ').map(Into::into).collect()).derived().run();
    let said = format!("{}{}", output.stdout, output.stderr);
    let made = |name: &str| home.join(name).exists();
    match becomes {
        Copy(text) => {
            assert!(output.code == 0 && output.stderr.contains(text), "{output:?}");
            assert_same_tree(&home.join("SRC"), &home.join("DST"));
        }
        Says(text) => {
            assert!(output.code == 0 && said.contains(text) && !made("DST"), "{output:?}");
        }
        Refused(text) => {
            assert!(output.code == 2 && output.stderr.contains(text), "{output:?}");
            assert!(!output.stderr.contains("tip:") && !output.stderr.contains("Usage:"), "{output:?}");
            assert!(!output.stderr.contains("For more information"), "{output:?}");
            let entries: Vec<_> = std::fs::read_dir(&home).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(entries, ["SRC"], "{output:?}");
        }
    }
}

/// With `--json`, the error for wrong usage is one JSON line.
#[test]
fn wrong_usage_in_json() {
    let lab = Lab::new();
    let output = lab.run(args!["sync", "a", "b", "--transfers", "3", "--json"]).code(2);
    let summary = output.summary();
    assert!(summary["error"].as_str().unwrap().contains("--transfers"), "{summary}");
    assert!(summary["hint"].as_str().unwrap().contains("-p NUMBER"), "{summary}");
}
