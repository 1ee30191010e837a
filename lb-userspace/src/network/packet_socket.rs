//! A socket that sends and receives whole frames of one protocol on one interface.
#![expect(unsafe_code, reason = "no safe constructor makes the address of a packet socket")]

use std::{
    io::{self, Read as _},
    mem,
    time::Duration,
};

use nix::libc;
use socket2::{Domain, SockAddr, SockFilter, Socket, Type};

/// The socket. Needs CAP_NET_RAW.
pub(super) struct PacketSocket(Socket);

impl PacketSocket {
    /// Opens it on the interface with this index, in the namespace of the calling thread.
    pub(super) fn open(index: u32, ethertype: u16) -> io::Result<Self> {
        Self::filtered(index, ethertype, &[])
    }

    /// The same, to hear only of frames that the filter keeps: of a protocol that carries everything else too.
    pub(super) fn filtered(index: u32, ethertype: u16, filter: &[SockFilter]) -> io::Result<Self> {
        // Without a protocol it hears nothing until it is bound to its one interface.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        if !filter.is_empty() {
            socket.attach_filter(filter)?;
        }
        socket.bind(&address(index, ethertype)?)?;
        Ok(Self(socket))
    }

    /// Sends a frame, headers and all.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.0.send(frame).map(|_| ())
    }

    /// The next frame, cut at 256 bytes; `None` if none comes in time.
    pub(super) fn receive(&self, within: Duration) -> io::Result<Option<Vec<u8>>> {
        // Zero would be for ever.
        self.0.set_read_timeout(Some(within.max(Duration::from_millis(1))))?;
        let mut frame = [0; 256];
        match (&self.0).read(&mut frame) {
            Ok(length) => Ok(Some(frame.get(..length).unwrap_or_default().to_vec())),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

fn address(index: u32, ethertype: u16) -> io::Result<SockAddr> {
    let index = i32::try_from(index).map_err(io::Error::other)?;
    // SAFETY: the storage is zeroed and larger than a `sockaddr_ll`, which may begin at any address that storage may; the
    // length that is set is that of what was written.
    let made = unsafe {
        SockAddr::try_init(|storage, length| {
            let link: *mut libc::sockaddr_ll = storage.cast();
            (*link).sll_family = AF_PACKET;
            (*link).sll_protocol = ethertype.to_be();
            (*link).sll_ifindex = index;
            *length = SOCKADDR_LL;
            Ok(())
        })
    };
    made.map(|((), address)| address)
}

/// packet(7).
const AF_PACKET: libc::sa_family_t = 17;
/// The size of the address, as the kernel wants it.
#[expect(clippy::cast_possible_truncation, reason = "20 bytes")]
const SOCKADDR_LL: libc::socklen_t = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
