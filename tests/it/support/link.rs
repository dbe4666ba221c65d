//! A link of a known rate between a sender and a receiver: what arrives, arrives at that rate.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The segment size of Ethernet. With that of loopback, the kernel of the sender buffers megabytes.
const SEGMENT_BYTES: u32 = 1448;

/// Carries connections to a receiver; ends when dropped. Answers come back at once.
pub(crate) struct Link {
    pub(crate) url: String,
    stop: Arc<AtomicBool>,
    addr: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

/// What all connections share.
struct Rate {
    bytes_per_s: f64,
    /// When everything that was taken so far is through.
    free_at: Mutex<Instant>,
}

impl Rate {
    /// Waits until `bytes` are through.
    fn carry(&self, bytes: usize) {
        let through = {
            let mut free_at = self.free_at.lock().unwrap();
            *free_at =
                (*free_at).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / self.bytes_per_s);
            *free_at
        };
        std::thread::sleep(through.saturating_duration_since(Instant::now()));
    }
}

impl Link {
    /// A link to `receiver` that carries so many bytes a second, and buffers little: about 10 ms of them for
    /// each connection.
    pub(crate) fn start(receiver: SocketAddr, bytes_per_s: u64) -> Self {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_tcp_mss(SEGMENT_BYTES).unwrap();
        socket.set_recv_buffer_size((bytes_per_s / 200).clamp(4 << 10, 1 << 20) as usize).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(64).unwrap();
        let listener = TcpListener::from(socket);
        let addr = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let rate = Arc::new(Rate { bytes_per_s: bytes_per_s as f64, free_at: Mutex::new(Instant::now()) });
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            for sender in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(sender), Ok(receiver)) = (sender, TcpStream::connect(receiver)) else { continue };
                let rate = rate.clone();
                std::thread::spawn(move || connection(&sender, &receiver, &rate));
            }
        });
        Self { url: format!("http://{addr}/tar"), stop, addr, thread: Some(thread) }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.addr);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn connection(sender: &TcpStream, receiver: &TcpStream, rate: &Rate) {
    let _ = (sender.set_nodelay(true), receiver.set_nodelay(true));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = std::io::copy(&mut &*receiver, &mut &*sender);
            let _ = sender.shutdown(Shutdown::Both);
        });
        let mut buffer = vec![0; (rate.bytes_per_s / 100.0).clamp(1024.0, 65536.0) as usize];
        while let Ok(count @ 1..) = (&*sender).read(&mut buffer) {
            rate.carry(count);
            if (&*receiver).write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = receiver.shutdown(Shutdown::Both);
    });
}
