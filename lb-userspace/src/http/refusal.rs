//! Why a request is refused before anybody decides about it.
//!
//! Every refusal is answered and then the connection is closed: after unlawful bytes nobody knows where the next
//! request begins.

use http::StatusCode;

/// What is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// RFC 9112 2.2 lets a server take a bare LF; other servers do not, and disagreement is smuggling.
    #[error("a line does not end in CR LF")]
    BareLineFeed,
    /// CR, NUL and other control characters inside a line.
    #[error("a control character in the head")]
    ControlByte,
    /// RFC 9112 5.2: obs-fold is refused.
    #[error("a header continues on the next line")]
    FoldedHeader,
    /// A header line without a colon, or with white space before it.
    #[error("a header line has no lawful name")]
    HeaderName,
    /// The request line is not three words.
    #[error("the request line is malformed")]
    RequestLine,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    #[error("the version is not HTTP/1.0 or HTTP/1.1")]
    Version,
    /// More than one Content-Length, even equal ones.
    #[error("several Content-Length headers")]
    ManyLengths,
    /// Not a decimal number.
    #[error("Content-Length is not a number")]
    BadLength,
    /// RFC 9112 6.1: the classic ambiguity.
    #[error("both Content-Length and Transfer-Encoding")]
    LengthAndTransferEncoding,
    /// Anything but one `chunked`, or on HTTP/1.0.
    #[error("malformed Transfer-Encoding")]
    BadTransferEncoding,
    /// A known coding other than `chunked`.
    #[error("unsupported Transfer-Encoding")]
    UnsupportedTransferEncoding,
    /// Chunked framing that another parser could read another way.
    #[error("malformed chunk")]
    BadChunk,
    /// Over [`super::guard::Limits::request_line`].
    #[error("the request line is too long")]
    RequestLineTooLong,
    /// Over [`super::guard::Limits::header`], `head` or `headers`.
    #[error("the headers are too large")]
    HeadTooLarge,
    /// No Host, several, or one that disagrees with the target.
    #[error("the Host header is missing, repeated or malformed")]
    Host,
    /// CONNECT and TRACE.
    #[error("the method is not allowed")]
    Method,
    /// Expect with anything but 100-continue.
    #[error("the expectation is not 100-continue")]
    Expectation,
    /// The head was not complete in time.
    #[error("the head was not received in time")]
    TimedOut,
}

impl Refusal {
    /// The status it is answered with.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::UnsupportedTransferEncoding => StatusCode::NOT_IMPLEMENTED,
            Self::RequestLineTooLong => StatusCode::URI_TOO_LONG,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::TimedOut => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}
