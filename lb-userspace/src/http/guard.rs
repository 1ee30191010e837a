//! The raw framing of requests, checked before hyper would hide an ambiguity.
//!
//! hyper reads a bare LF as a line's end, drops a Content-Length that comes with Transfer-Encoding, and merges equal
//! ones. Each is lawful for a server and dangerous for a proxy: another reader may disagree on where a request ends.
//! The guard walks the same bytes first, follows heads and bodies, and says how many may pass. It keeps no bytes and
//! does no I/O; `guarded` feeds it. Token rules (method, target, header names) are left to hyper's parser behind it.

use memchr::memchr;

use super::refusal::Refusal;

/// Sizes of a request's head, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The request line.
    pub request_line: usize,
    /// One header line.
    pub header: usize,
    /// The whole head.
    pub head: usize,
    /// How many header lines.
    pub headers: usize,
}

impl Limits {
    /// An application load balancer's: request line 16 K, one header 16 K, all headers 64 K.
    pub const ALB: Self = Self { request_line: 16 << 10, header: 16 << 10, head: 64 << 10, headers: 100 };
    /// An HTTP API's: request line and headers together 10,240 bytes.
    pub const API: Self = Self { request_line: 10_240, header: 10_240, head: 10_240, headers: 100 };
}

/// What may pass of the bytes that were shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// So many bytes from the start may pass; the rest must be shown again, with more behind it.
    pub pass: usize,
    /// What stands after them.
    pub then: Then,
}

/// What stands after the bytes that may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Nothing, or a head that is not complete.
    More,
    /// A head that is unlawful.
    RefusedHead(Refusal),
    /// A body that is unlawful; its head has passed.
    RefusedBody(Refusal),
    /// Bytes whose meaning depends on the answer to a request to upgrade: see [`Guard::resume`].
    Paused,
}

/// Follows one client connection's bytes.
#[derive(Debug)]
pub struct Guard {
    limits: Limits,
    at: At,
    heads: u64,
}

#[derive(Debug)]
enum At {
    Head(Head),
    Fixed(u64),
    Chunk(Chunk),
    Paused,
    Off,
}

/// How far a head was read: whole lines only.
#[derive(Debug, Default)]
struct Head {
    read: usize,
    begun: bool,
    old: bool,
    lines: usize,
    length: Option<u64>,
    coding: Option<Coding>,
    upgrade: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Chunked,
    Known,
    Bad,
}

/// Where in a chunked body the next byte stands.
#[derive(Debug, Clone, Copy)]
enum Chunk {
    Size { size: u64, digits: u8 },
    Extension { size: u64, length: usize },
    SizeEnd { size: u64 },
    Data { left: u64 },
    DataEnd { cr: bool },
    Trailer { total: usize, line: usize },
    TrailerEnd { total: usize, line: usize },
}

impl Guard {
    /// Stands before the first request of a connection.
    pub fn new(limits: Limits) -> Self {
        Self { limits, at: At::Head(Head::default()), heads: 0 }
    }

    /// Lets everything pass: for HTTP/2, whose framing has no such ambiguity.
    pub fn off() -> Self {
        Self { limits: Limits::ALB, at: At::Off, heads: 0 }
    }

    /// The request to upgrade was answered: by 101 when `upgraded`, and then all that follows passes unread.
    pub fn resume(&mut self, upgraded: bool) {
        if matches!(self.at, At::Paused) {
            self.at = if upgraded { At::Off } else { At::Head(Head::default()) };
        }
    }

    /// How many heads have passed.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// Reads on. `bytes` begins with what did not pass before.
    pub fn scan(&mut self, bytes: &[u8]) -> Scan {
        let mut pass = 0;
        while let Some(rest) = bytes.get(pass..) {
            match &mut self.at {
                At::Off => return Scan { pass: bytes.len(), then: Then::More },
                At::Paused => {
                    let then = if rest.is_empty() { Then::More } else { Then::Paused };
                    return Scan { pass, then };
                }
                _ if rest.is_empty() => break,
                At::Fixed(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= taken as u64;
                    pass += taken;
                    if *left == 0 {
                        self.at = At::Head(Head::default());
                    }
                }
                At::Chunk(chunk) => match chunk.follow(rest) {
                    Ok((taken, done)) => {
                        pass += taken;
                        if done {
                            self.at = At::Head(Head::default());
                        }
                    }
                    Err(refusal) => return Scan { pass, then: Then::RefusedBody(refusal) },
                },
                At::Head(head) => match head.read_lines(rest, self.limits) {
                    Ok(None) => break,
                    Ok(Some(next)) => {
                        pass += head.read;
                        self.at = next;
                        self.heads += 1;
                    }
                    Err(refusal) => return Scan { pass, then: Then::RefusedHead(refusal) },
                },
            }
        }
        Scan { pass, then: Then::More }
    }
}

impl Head {
    /// Takes the whole lines of `bytes`, which begins with the head's first byte. At its end: what follows the head.
    fn read_lines(&mut self, bytes: &[u8], limits: Limits) -> Result<Option<At>, Refusal> {
        while let Some(rest) = bytes.get(self.read..) {
            let limit = if self.begun { limits.header } else { limits.request_line };
            let Some(end) = memchr(b'\n', rest) else {
                return if rest.len() > limit || bytes.len() > limits.head {
                    Err(self.too_large())
                } else {
                    Ok(None)
                };
            };
            let line = match rest.get(..end) {
                Some([line @ .., b'\r']) => line,
                _ => return Err(Refusal::BareLineFeed),
            };
            if line.len() > limit || self.read + end >= limits.head {
                return Err(self.too_large());
            }
            self.read += end + 1;
            if line.is_empty() {
                if self.begun {
                    return self.end().map(Some);
                }
                // RFC 9112 2.2: a server ignores at least one empty line before the request line.
                if self.read > MOST_LEADING {
                    return Err(Refusal::RequestLine);
                }
                continue;
            }
            if has_control(line) {
                return Err(Refusal::ControlByte);
            }
            if self.begun {
                self.header(line)?;
                self.lines += 1;
                if self.lines > limits.headers {
                    return Err(Refusal::HeadTooLarge);
                }
            } else {
                self.request_line(line)?;
                self.begun = true;
            }
        }
        Ok(None)
    }

    fn too_large(&self) -> Refusal {
        if self.begun { Refusal::HeadTooLarge } else { Refusal::RequestLineTooLong }
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        // Method SP target SP version, exactly: a space more or less is read in several ways.
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Refusal::RequestLine);
        };
        if method.is_empty() || target.is_empty() || method.contains(&b'\t') || target.contains(&b'\t') {
            return Err(Refusal::RequestLine);
        }
        match version {
            b"HTTP/1.1" => Ok(()),
            b"HTTP/1.0" => {
                self.old = true;
                Ok(())
            }
            _ if version.starts_with(b"HTTP/") => Err(Refusal::Version),
            _ => Err(Refusal::RequestLine),
        }
    }

    fn header(&mut self, line: &[u8]) -> Result<(), Refusal> {
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(Refusal::FoldedHeader);
        }
        let Some((name, value)) = memchr(b':', line).and_then(|colon| line.split_at_checked(colon)) else {
            return Err(Refusal::HeaderName);
        };
        if matches!(name.last(), None | Some(b' ' | b'\t')) {
            return Err(Refusal::HeaderName);
        }
        let value = || value.get(1..).unwrap_or_default().trim_ascii();
        match name.len() {
            14 if is_name(name, b"content-length") => self.length(name, value()),
            17 if is_name(name, b"transfer-encoding") => self.coding(name, value()),
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.upgrade = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn length(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        if self.length.is_some() {
            return Err(Refusal::ManyLengths);
        }
        // RFC 9110 8.6: digits only, so no sign and no list.
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit) && !name.contains(&b'_');
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        self.length = Some(number.filter(|_| digits).ok_or(Refusal::BadLength)?);
        Ok(())
    }

    fn coding(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        if self.coding.is_some() || name.contains(&b'_') {
            return Err(Refusal::BadTransferEncoding);
        }
        let known = |word: &[u8]| CODINGS.iter().any(|coding| word.eq_ignore_ascii_case(coding));
        let mut words = value.rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        // RFC 9112 6.3: where chunked is not the last coding, the answer must be 400. 6.1: it stands only once.
        let ends_in_chunked = words.next().is_some_and(|word| word.eq_ignore_ascii_case(b"chunked"));
        self.coding = Some(if value.eq_ignore_ascii_case(b"chunked") {
            Coding::Chunked
        } else if ends_in_chunked && words.all(known) {
            Coding::Known
        } else {
            Coding::Bad
        });
        Ok(())
    }

    fn end(&self) -> Result<At, Refusal> {
        match (self.coding, self.length) {
            (Some(_), Some(_)) => Err(Refusal::LengthAndTransferEncoding),
            // RFC 9112 6.1: HTTP/1.0 has no transfer codings.
            (Some(_), None) if self.old => Err(Refusal::BadTransferEncoding),
            (Some(Coding::Bad), None) => Err(Refusal::BadTransferEncoding),
            (Some(Coding::Known), None) => Err(Refusal::UnsupportedTransferEncoding),
            (Some(Coding::Chunked), None) => Ok(At::Chunk(Chunk::Size { size: 0, digits: 0 })),
            (None, Some(length)) if length > 0 => Ok(At::Fixed(length)),
            (None, _) if self.upgrade => Ok(At::Paused),
            (None, _) => Ok(At::Head(Self::default())),
        }
    }
}

impl Chunk {
    /// Follows `bytes`: how many belong to this body, and whether it ended with them.
    fn follow(&mut self, bytes: &[u8]) -> Result<(usize, bool), Refusal> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if let Self::Data { left } = self {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - at);
                *left -= taken as u64;
                at += taken;
                if *left == 0 {
                    *self = Self::DataEnd { cr: false };
                }
                continue;
            }
            at += 1;
            *self = match (*self, byte) {
                (Self::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                    // Sixteen digits fill 64 bits.
                    if digits == 16 {
                        return Err(Refusal::BadChunk);
                    }
                    Self::Size { size: size << 4 | hex(byte), digits: digits + 1 }
                }
                (Self::Size { digits: 0, .. }, _) => return Err(Refusal::BadChunk),
                (Self::Size { size, .. } | Self::Extension { size, .. }, b'\r') => Self::SizeEnd { size },
                (Self::Size { size, .. }, b';') => Self::Extension { size, length: 0 },
                (Self::Extension { size, length }, _)
                    if (byte == b'\t' || !byte.is_ascii_control()) && length < MOST_EXTENSION =>
                {
                    Self::Extension { size, length: length + 1 }
                }
                (Self::SizeEnd { size: 0 }, b'\n') => Self::Trailer { total: 0, line: 0 },
                (Self::SizeEnd { size }, b'\n') => Self::Data { left: size },
                (Self::DataEnd { cr: false }, b'\r') => Self::DataEnd { cr: true },
                (Self::DataEnd { cr: true }, b'\n') => Self::Size { size: 0, digits: 0 },
                (Self::Trailer { total, line }, b'\r') => Self::TrailerEnd { total, line },
                (Self::TrailerEnd { line: 0, .. }, b'\n') => return Ok((at, true)),
                (Self::TrailerEnd { total, .. }, b'\n') => Self::Trailer { total, line: 0 },
                (Self::Trailer { line: 0, .. }, b' ' | b'\t') => return Err(Refusal::FoldedHeader),
                (Self::Trailer { total, line }, _)
                    if (byte == b'\t' || !byte.is_ascii_control()) && total < MOST_TRAILERS =>
                {
                    Self::Trailer { total: total + 1, line: line + 1 }
                }
                _ => return Err(Refusal::BadChunk),
            };
        }
        Ok((at, false))
    }
}

fn hex(byte: u8) -> u64 {
    u64::from(match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        _ => byte.wrapping_sub(b'A').wrapping_add(10),
    })
}

/// Whether a line holds a control character other than a tab. Written without an early end so that it vectorizes.
fn has_control(line: &[u8]) -> bool {
    line.iter().fold(false, |found, byte| found | ((*byte < b' ') & (*byte != b'\t')) | (*byte == 0x7f))
}

/// Whether `name` is `known` in any case; `_` counts as `-`, since CGI-like targets read it so.
fn is_name(name: &[u8], known: &[u8]) -> bool {
    name.iter().zip(known).all(|(own, known)| {
        let own = if *own == b'_' { b'-' } else { own.to_ascii_lowercase() };
        own == *known
    })
}

/// Registered codings that this proxy does not undo.
const CODINGS: [&[u8]; 5] = [b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress"];
/// Two empty lines: more before a request line is no client's habit.
const MOST_LEADING: usize = 4;
/// Chunk extensions are unused in practice; long ones only hide bytes.
const MOST_EXTENSION: usize = 256;
/// As one header's limit.
const MOST_TRAILERS: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of `bytes` shown at once; and that showing them byte by byte passes and refuses the same.
    fn scan(bytes: &[u8]) -> Scan {
        let whole = Guard::new(Limits::ALB).scan(bytes);
        let mut guard = Guard::new(Limits::ALB);
        let (mut passed, mut then) = (0, Then::More);
        for shown in 1..=bytes.len() {
            let scan = guard.scan(&bytes[passed..shown]);
            passed += scan.pass;
            then = scan.then;
            if then != Then::More {
                break;
            }
        }
        assert_eq!(then, whole.then, "byte by byte: {:?}", String::from_utf8_lossy(bytes));
        if !matches!(then, Then::RefusedBody(_)) {
            assert_eq!(passed, whole.pass, "byte by byte: {:?}", String::from_utf8_lossy(bytes));
        }
        whole
    }

    fn passes(text: &str) {
        assert_eq!(scan(text.as_bytes()), Scan { pass: text.len(), then: Then::More }, "{text:?}");
    }

    fn head_refused(text: &str, refusal: Refusal) {
        assert_eq!(scan(text.as_bytes()), Scan { pass: 0, then: Then::RefusedHead(refusal) }, "{text:?}");
    }

    #[test]
    fn lawful_requests_pass() {
        passes("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        passes("\r\nGET / HTTP/1.0\r\n\r\n");
        passes("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n");
        passes(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        );
        passes(
            "POST / HTTP/1.1\r\ntransfer-encoding:  Chunked \r\n\r\n5;a=b\r\nhello\r\n0\r\nx: y\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        );
        passes("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
    }

    #[test]
    fn an_incomplete_head_waits() {
        let scan = scan(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HT");
        assert_eq!(scan, Scan { pass: 27, then: Then::More });
    }

    #[test]
    fn ambiguous_lengths_are_refused() {
        let post = |headers: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n");
        for headers in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
        ] {
            head_refused(&post(headers), Refusal::LengthAndTransferEncoding);
        }
        head_refused(&post("Content-Length: 5\r\nContent-Length: 5"), Refusal::ManyLengths);
        for value in ["+5", "-1", "5, 5", "0x5", "", "5 5", "99999999999999999999"] {
            head_refused(&post(&format!("Content-Length: {value}")), Refusal::BadLength);
        }
        head_refused(&post("Content_Length: 5"), Refusal::BadLength);
        let codings = [
            "identity",
            "chunked, identity",
            "chunked, gzip",
            "gzip",
            "chunked, chunked",
            "xchunked",
            "chunked;a",
            "",
        ];
        for value in codings {
            head_refused(&post(&format!("Transfer-Encoding: {value}")), Refusal::BadTransferEncoding);
        }
        head_refused(&post("Transfer_Encoding: chunked"), Refusal::BadTransferEncoding);
        head_refused(
            &post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
            Refusal::BadTransferEncoding,
        );
        head_refused(&post("Transfer-Encoding: gzip, chunked"), Refusal::UnsupportedTransferEncoding);
        head_refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Refusal::BadTransferEncoding);
    }

    #[test]
    fn unlawful_lines_are_refused() {
        head_refused("GET / HTTP/1.1\nHost: a\r\n\r\n", Refusal::BareLineFeed);
        head_refused("GET / HTTP/1.1\r\nHost: a\n\r\n", Refusal::BareLineFeed);
        head_refused("GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n", Refusal::ControlByte);
        head_refused("GET / HTTP/1.1\r\nA: b\0\r\n\r\n", Refusal::ControlByte);
        head_refused("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", Refusal::FoldedHeader);
        head_refused("GET / HTTP/1.1\r\n A: b\r\n\r\n", Refusal::FoldedHeader);
        head_refused("GET / HTTP/1.1\r\nContent-Length : 5\r\n\r\n", Refusal::HeaderName);
        head_refused("GET / HTTP/1.1\r\nno colon\r\n\r\n", Refusal::HeaderName);
        head_refused("GET /\r\n\r\n", Refusal::RequestLine);
        head_refused("GET  / HTTP/1.1\r\n\r\n", Refusal::RequestLine);
        head_refused("GET /a b HTTP/1.1\r\n\r\n", Refusal::RequestLine);
        head_refused("PRI * HTTP/2.0\r\n\r\n", Refusal::Version);
        head_refused("\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n", Refusal::RequestLine);
    }

    #[test]
    fn sizes_are_limited() {
        head_refused(&format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(16 << 10)), Refusal::RequestLineTooLong);
        head_refused(
            &format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(16 << 10)),
            Refusal::HeadTooLarge,
        );
        let many = format!("A: {}\r\n", "a".repeat(15 << 10)).repeat(5);
        head_refused(&format!("GET / HTTP/1.1\r\n{many}\r\n"), Refusal::HeadTooLarge);
        head_refused(&format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(101)), Refusal::HeadTooLarge);
        let endless = "a".repeat(17 << 10);
        assert_eq!(
            Guard::new(Limits::ALB).scan(endless.as_bytes()).then,
            Then::RefusedHead(Refusal::RequestLineTooLong)
        );
    }

    #[test]
    fn malformed_chunks_are_refused_where_they_begin() {
        let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        for body in [
            "\r\n",
            "g\r\n",
            "5\nhello\r\n",
            "5\r\nhelloX",
            "5\r\nhello\n",
            "5 \r\nhello\r\n",
            "0x5\r\nhello\r\n",
            "11111111111111111\r\n",
            "5;a\rb\r\nhello\r\n",
            "0\r\nA: b\n\r\n",
        ] {
            let scan = scan(format!("{head}{body}").as_bytes());
            assert_eq!(scan.then, Then::RefusedBody(Refusal::BadChunk), "{body:?}");
        }
        let scan = scan(format!("{head}0\r\n A: b\r\n\r\n").as_bytes());
        assert_eq!(scan.then, Then::RefusedBody(Refusal::FoldedHeader));
    }

    #[test]
    fn what_follows_an_upgrade_waits_for_the_answer() {
        let head = b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";
        let bytes = [head.as_slice(), b"\x81\x05hello"].concat();
        let mut guard = Guard::new(Limits::ALB);
        assert_eq!(guard.scan(&bytes), Scan { pass: head.len(), then: Then::Paused });
        guard.resume(true);
        assert_eq!(guard.scan(&bytes[head.len()..]), Scan { pass: 7, then: Then::More });
        let mut guard = Guard::new(Limits::ALB);
        guard.scan(&bytes);
        guard.resume(false);
        assert_eq!(
            guard.scan(b"\x81\x05hello\r\n").then,
            Then::RefusedHead(Refusal::ControlByte),
            "declined: the bytes are a request, and not a lawful one"
        );
    }
}
