//! A client that sends bytes as they are.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use super::stage::SOON;

/// One connection to the load balancer.
pub(super) struct Client {
    pub(super) stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Client {
    pub(super) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, SOON).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    pub(super) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Sends a request with these lines besides Host, and gives the answer.
    pub(super) fn get(&mut self, path: &str, headers: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: demo.example\r\n{headers}\r\n"));
        self.answer().expect("an answer")
    }

    /// The next answer; `None` when the connection ended instead.
    pub(super) fn answer(&mut self) -> Option<Answer> {
        self.answer_to("GET")
    }

    /// As [`Self::answer`], for a method.
    pub(super) fn answer_to(&mut self, method: &str) -> Option<Answer> {
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            self.fill()?;
        };
        let head = String::from_utf8(self.buffer.drain(..end).collect()).unwrap();
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        let answer = Answer { status, head, body: Vec::new() };
        let bodyless = method == "HEAD" || matches!(status, 100..=199 | 204 | 304);
        let body = if bodyless {
            Vec::new()
        } else if let Some(length) = answer.header("content-length") {
            let length = length.parse().unwrap();
            while self.buffer.len() < length {
                self.fill()?;
            }
            self.buffer.drain(..length).collect()
        } else if answer.header("transfer-encoding").is_some() {
            let mut body = Vec::new();
            loop {
                while find(&self.buffer, b"\r\n").is_none() {
                    self.fill()?;
                }
                let end = find(&self.buffer, b"\r\n").unwrap();
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let size = usize::from_str_radix(std::str::from_utf8(&line[..end]).unwrap(), 16).unwrap();
                if size == 0 {
                    while find(&self.buffer, b"\r\n").is_none() {
                        self.fill()?;
                    }
                    self.buffer.drain(..2);
                    break body;
                }
                while self.buffer.len() < size + 2 {
                    self.fill()?;
                }
                body.extend(self.buffer.drain(..size));
                self.buffer.drain(..2);
            }
        } else {
            while self.fill().is_some() {}
            std::mem::take(&mut self.buffer)
        };
        Some(Answer { body, ..answer })
    }

    /// Bytes that were read beyond the last answer.
    pub(super) fn take_buffered(&mut self, into: &mut [u8]) -> usize {
        let count = self.buffer.len().min(into.len());
        into[..count].copy_from_slice(&self.buffer[..count]);
        self.buffer.drain(..count);
        count
    }

    /// Whether the load balancer has closed, and nothing more has come.
    pub(super) fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && self.fill().is_none()
    }

    fn fill(&mut self) -> Option<()> {
        let mut chunk = [0; 16384];
        match self.stream.read(&mut chunk) {
            Ok(count) if count > 0 => {
                self.buffer.extend_from_slice(&chunk[..count]);
                Some(())
            }
            Ok(_) => None,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("nothing came and nothing was closed within {SOON:?}")
            }
            Err(_) => None,
        }
    }
}

impl Answer {
    /// The value of a header.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// The value of a header in a head.
pub(super) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (own, value) = line.split_once(':')?;
        own.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Where `needle` begins.
pub(super) fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}
