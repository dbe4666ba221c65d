//! Many connections over one: standard input and output of a program that ssh has started. The
//! framing is that of yamux (its specification is HashiCorp's).
//!
//! The first stream is the life line: a byte each way now and then. When none has come for a minute,
//! the other side counts as gone, however the connection looks.

use futures_util::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use yamux::{Config, Connection, Mode};

/// One of the connections.
pub type MuxStream = Compat<yamux::Stream>;

/// Which side this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The side that has started the other one. It begins the life line.
    Starter,
    /// The side that was started.
    Started,
}

/// So many connections at a time; each may take [`yamux::DEFAULT_CREDIT`] of memory, and more where
/// the link is long.
const MAX_STREAMS: usize = 256;
/// The most memory of all of them together, in bytes.
const MAX_WINDOW_BYTES: usize = 256 << 20;
/// The largest frame: fewer system calls than by the library's 16 KiB.
const FRAME_BYTES: usize = 64 << 10;
/// How often a byte goes over the life line.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// So long the other side may be silent.
const MAX_SILENCE: Duration = Duration::from_secs(60);

/// Opens connections.
#[derive(Debug, Clone)]
pub struct Mux {
    requests: mpsc::Sender<oneshot::Sender<yamux::Stream>>,
    ended: watch::Receiver<bool>,
}

/// Connections that the other side opens.
#[derive(Debug)]
pub struct Incoming(mpsc::UnboundedReceiver<yamux::Stream>);

impl Incoming {
    /// The next one; `None` when the mux has ended.
    pub async fn next(&mut self) -> Option<MuxStream> {
        self.0.recv().await.map(FuturesAsyncReadCompatExt::compat)
    }
}

impl Mux {
    /// Begins to speak over `link`, and waits until the other side does. It ends when the link does,
    /// when the other side is silent, or when every [`Mux`] of it is dropped.
    ///
    /// # Errors
    /// The other side does not answer.
    pub async fn start(
        link: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        side: Side,
    ) -> io::Result<(Self, Incoming)> {
        let mut config = Config::default();
        config.set_max_num_streams(MAX_STREAMS);
        config.set_max_connection_receive_window(Some(MAX_WINDOW_BYTES));
        config.set_split_send_size(FRAME_BYTES);
        let mode = if side == Side::Starter { Mode::Client } else { Mode::Server };
        let link = tokio::io::BufWriter::with_capacity(2 * FRAME_BYTES, link);
        let connection = Connection::new(link.compat(), config, mode);
        let (requests, asked) = mpsc::channel(1);
        let (inbound, incoming) = mpsc::unbounded_channel();
        let (end, ended) = watch::channel(false);
        let (mux, mut incoming) = (Self { requests, ended }, Incoming(incoming));
        let stopped = end.subscribe();
        let driver_end = end.clone();
        tokio::spawn(async move {
            let mut stopped = stopped;
            tokio::select! {
                outcome = drive(connection, asked, inbound) => {
                    if let Err(e) = outcome {
                        tracing::debug!("the connection over ssh has ended: {e}");
                    }
                }
                _ = stopped.wait_for(|ended| *ended) => {}
            }
            driver_end.send_replace(true);
        });
        // The other side learns of a stream by its first byte: no other one may be opened before that.
        let mut life = match side {
            Side::Starter => mux.open().await?,
            Side::Started => incoming.next().await.ok_or_else(gone)?,
        };
        beat(&mut life, side).await?;
        tokio::spawn(async move {
            loop {
                if side == Side::Starter {
                    tokio::time::sleep(HEARTBEAT).await;
                }
                if let Err(e) = beat(&mut life, side).await {
                    tracing::debug!("the other side is silent: {e}");
                    break;
                }
            }
            end.send_replace(true);
        });
        Ok((mux, incoming))
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// The mux has ended.
    pub async fn open(&self) -> io::Result<MuxStream> {
        let (answer, opened) = oneshot::channel();
        self.requests.send(answer).await.map_err(|_| gone())?;
        opened.await.map(FuturesAsyncReadCompatExt::compat).map_err(|_| gone())
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        // An error says that what drives it is gone, too.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the connection over ssh has ended")
}

/// One byte each way over the life line.
async fn beat(life: &mut MuxStream, side: Side) -> io::Result<()> {
    let exchange = async {
        if side == Side::Starter {
            life.write_u8(0).await?;
            life.flush().await?;
            return life.read_u8().await.map(drop);
        }
        let byte = life.read_u8().await?;
        life.write_u8(byte).await?;
        life.flush().await
    };
    tokio::time::timeout(MAX_SILENCE, exchange).await?
}

/// Moves everything, and ends with the link or when every handle that opens streams is dropped.
async fn drive<T: futures_util::AsyncRead + futures_util::AsyncWrite + Unpin>(
    mut connection: Connection<T>,
    mut asked: mpsc::Receiver<oneshot::Sender<yamux::Stream>>,
    inbound: mpsc::UnboundedSender<yamux::Stream>,
) -> Result<(), yamux::ConnectionError> {
    let mut waiting: Option<oneshot::Sender<yamux::Stream>> = None;
    let mut closes = false;
    poll_fn(|context| {
        loop {
            if closes {
                return connection.poll_close(context);
            }
            if waiting.is_none() {
                match asked.poll_recv(context) {
                    Poll::Ready(Some(request)) => waiting = Some(request),
                    Poll::Ready(None) => {
                        closes = true;
                        continue;
                    }
                    Poll::Pending => {}
                }
            }
            if waiting.is_some()
                && let Poll::Ready(opened) = connection.poll_new_outbound(context)
            {
                let opened = opened?;
                if let Some(request) = waiting.take() {
                    // Who asked may have given up.
                    let _ = request.send(opened);
                }
                continue;
            }
            match connection.poll_next_inbound(context) {
                Poll::Ready(Some(stream)) => {
                    // Where the receiving end is dropped, the stream is closed.
                    let _ = inbound.send(stream?);
                }
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whichever side ends, the other one hears of it.
    #[tokio::test]
    async fn streams_are_carried_until_a_side_ends() {
        for started_ends in [false, true] {
            let (near, far) = tokio::io::duplex(1000);
            let (near, far) = tokio::join!(Mux::start(near, Side::Starter), Mux::start(far, Side::Started));
            let ((near, _), (far, mut incoming)) = (near.unwrap(), far.unwrap());
            let echo = tokio::spawn(async move {
                while let Some(mut stream) = incoming.next().await {
                    let mut text = [0; 5];
                    stream.read_exact(&mut text).await.unwrap();
                    stream.write_all(&text).await.unwrap();
                    stream.shutdown().await.unwrap();
                }
            });
            for _ in 0..3 {
                let mut stream = near.open().await.unwrap();
                stream.write_all(b"hello").await.unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).await.unwrap();
                assert_eq!(text, "hello");
            }
            match started_ends {
                true => {
                    drop(far);
                    near.ended().await;
                    assert!(near.open().await.is_err());
                }
                false => {
                    drop(near);
                    far.ended().await;
                }
            }
            echo.await.unwrap();
        }
    }

    /// The other side is there, and says nothing any more.
    #[tokio::test(start_paused = true)]
    async fn a_silent_side_counts_as_gone() {
        let (near, far) = tokio::io::duplex(1000);
        assert!(Mux::start(near, Side::Starter).await.is_err());
        drop(far);
    }
}
