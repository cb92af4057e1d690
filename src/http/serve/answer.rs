//! Answers where there is no router: to connections that are turned away, and in place of what the
//! HTTP library says by itself of a request that it cannot read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::http::{HeaderMap, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::browsers::security_headers;
use crate::http::{Problem, RequestId};
use crate::time::wall;

/// The whole answer, as its bytes. It ends its connection.
pub(super) fn refusal(problem: &Problem) -> Vec<u8> {
    let id = RequestId::random();
    let envelope = problem.envelope(id.as_str(), wall());
    let mut headers: HeaderMap = problem.headers().clone();
    security_headers(&mut headers, false);
    let mut answer = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\ncache-control: no-store\r\n\
         x-request-id: {}\r\nconnection: close\r\n",
        problem.status().as_str(),
        problem.status().canonical_reason().unwrap_or_default(),
        envelope.len(),
        id.as_str(),
    )
    .into_bytes();
    for (name, value) in &headers {
        answer.extend_from_slice(name.as_str().as_bytes());
        answer.extend_from_slice(b": ");
        answer.extend_from_slice(value.as_bytes());
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(b"\r\n");
    answer.extend_from_slice(envelope.as_bytes());
    answer
}

/// A socket under the HTTP library that gives the library's own answers the form of all others: it
/// refuses what it cannot read with a bare head and no body, and asks nobody.
pub(in crate::http) struct Answering<S> {
    socket: S,
    /// What is written in place of such an answer, and how much of it was.
    own: Option<(Vec<u8>, usize)>,
}

impl<S> Answering<S> {
    pub(super) const fn new(socket: S) -> Self {
        Self { socket, own: None }
    }

    pub(in crate::http) fn into_inner(self) -> S {
        self.socket
    }
}

/// The status of an answer that is the library's own: a refusal without the id that all of ours have.
fn own_of_library(written: &[u8]) -> Option<StatusCode> {
    let head = written.strip_prefix(b"HTTP/1.")?;
    let status = head.get(2..5).filter(|status| status[0] == b'4')?;
    let ours = head.windows(REQUEST_ID.len()).any(|part| part == REQUEST_ID);
    StatusCode::from_bytes(status).ok().filter(|_| !ours && head.ends_with(b"\r\n\r\n"))
}

const REQUEST_ID: &[u8] = b"x-request-id: ";

impl<S: AsyncWrite + Unpin> Answering<S> {
    /// Takes the place of `written` where that is the library's own answer.
    fn replaces(&mut self, written: &[u8]) -> bool {
        let Some(status) = own_of_library(written).filter(|_| self.own.is_none()) else { return false };
        self.own = Some((refusal(&Problem::of_status(status)), 0));
        true
    }

    fn poll_own(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some((answer, written)) = &mut self.own else { return Poll::Ready(Ok(())) };
        while *written < answer.len() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, &answer[*written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                bytes => *written += bytes,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Answering<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Answering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.replaces(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // Its head, which has no body, is one piece.
        if let [head] = slices
            && self.replaces(head)
        {
            return Poll::Ready(Ok(head.len()));
        }
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_library_says_by_itself_is_replaced() {
        let library = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(own_of_library(library), Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
        let ours = refusal(&Problem::bad_request("a test"));
        let head = ours.windows(4).position(|end| end == b"\r\n\r\n").expect("an end") + 4;
        for kept in [&ours[..], &ours[..head], b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 101 S\r\n\r\n", b"{}", b""] {
            assert_eq!(own_of_library(kept), None, "{}", String::from_utf8_lossy(kept));
        }
    }
}
