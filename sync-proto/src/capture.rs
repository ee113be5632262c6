//! UDP datagrams out of a recording of packets, as `tcpdump -w` and Wireshark write it (the file format *pcap*,
//! `pcap-savefile(5)`), for tools and tests around the protocol.
//!
//! Files in either byte order, with microseconds or nanoseconds, of Ethernet (802.1Q tags included), of any interface
//! (`tcpdump -i any`), or of bare IP. What is no UDP is passed over, and so are fragments but the first. The newer format
//! *pcapng* is not read; `editcap -F pcap` converts it.
//!
//! ```
//! # const FILE: &[u8] = include_bytes!("../examples/sip.pcap");
//! use sync_proto::{Message, SyncId, capture::Capture};
//! for datagram in Capture::open(FILE)? {
//!     let datagram = datagram?;
//!     assert_eq!(datagram.destination.to_string(), "224.0.0.81:8848");
//!     assert_eq!(Message::decode(datagram.payload, SyncId::ANY)?.record_count(), 6);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::fixed::field;
use core::fmt;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use core::time::Duration;

/// A recording; as an iterator, the UDP datagrams in it.
#[derive(Clone, Debug)]
pub struct Capture<'a> {
    rest: &'a [u8],
    number: fn([u8; 4]) -> u32,
    /// In what the second number of a time counts.
    nanoseconds_per_tick: u32,
    link: Link,
}

impl<'a> Capture<'a> {
    /// Takes the contents of a file.
    pub fn open(file: &'a [u8]) -> Result<Capture<'a>, CaptureError> {
        let (header, rest) = file.split_first_chunk::<24>().ok_or(CaptureError::NoPcap)?;
        let magic = field::<0, 4, _>(header);
        let orders: [fn([u8; 4]) -> u32; 2] = [u32::from_le_bytes, u32::from_be_bytes];
        let read = orders.into_iter().find_map(|number| match number(magic) {
            0xa1b2_c3d4 => Some((number, 1000)),
            0xa1b2_3c4d => Some((number, 1)),
            _ => None,
        });
        let (number, nanoseconds_per_tick) = read.ok_or(CaptureError::NoPcap)?;
        // The upper bits tell of a checksum behind each frame.
        let link = match number(field::<20, 4, _>(header)) & 0xffff {
            1 => Link::Ethernet,
            12 | 101 | 228 | 229 => Link::Ip,
            113 => Link::Any,
            276 => Link::Any2,
            other => return Err(CaptureError::Link(other)),
        };
        Ok(Capture { rest, number, nanoseconds_per_tick, link })
    }

    /// The next packet with its time; none at the end of the file.
    fn packet(&mut self) -> Option<Result<(Duration, &'a [u8]), CaptureError>> {
        let rest = core::mem::take(&mut self.rest);
        if rest.is_empty() {
            return None;
        }
        let packet = rest.split_first_chunk::<16>().and_then(|(header, behind)| {
            let len = usize::try_from((self.number)(field::<8, 4, _>(header))).ok()?;
            let (packet, behind) = behind.split_at_checked(len)?;
            let seconds = Duration::from_secs((self.number)(field::<0, 4, _>(header)).into());
            let ticks = (self.number)(field::<4, 4, _>(header));
            let fraction = u64::from(ticks) * u64::from(self.nanoseconds_per_tick);
            self.rest = behind;
            Some((seconds + Duration::from_nanos(fraction), packet))
        });
        Some(packet.ok_or(CaptureError::Truncated))
    }
}

impl<'a> Iterator for Capture<'a> {
    type Item = Result<Datagram<'a>, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (at, packet) = match self.packet()? {
                Ok(packet) => packet,
                Err(error) => return Some(Err(error)),
            };
            if let Some((source, destination, payload)) = self.link.ip(packet).and_then(udp) {
                return Some(Ok(Datagram { at, source, destination, payload }));
            }
        }
    }
}

/// A UDP datagram of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// When it was recorded, since 1970.
    pub at: Duration,
    /// Who sent it.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// What is in it, as far as it was recorded.
    pub payload: &'a [u8],
}

/// Why a recording cannot be read, or not any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptureError {
    /// The file does not begin as such files do.
    NoPcap,
    /// Packets of another kind of link; the number is that of `LINKTYPE_*`.
    Link(u32),
    /// The file ends within a packet.
    Truncated,
}

impl fmt::Display for CaptureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CaptureError::NoPcap => f.write_str("not a pcap file (editcap -F pcap converts others)"),
            CaptureError::Link(number) => write!(f, "link type {number}, neither Ethernet nor IP"),
            CaptureError::Truncated => f.write_str("the file ends within a packet"),
        }
    }
}

impl core::error::Error for CaptureError {}

/// What stands before IP.
#[derive(Clone, Copy, Debug)]
enum Link {
    Ethernet,
    Ip,
    /// `LINKTYPE_LINUX_SLL`.
    Any,
    /// `LINKTYPE_LINUX_SLL2`.
    Any2,
}

impl Link {
    /// The IP packet in a frame.
    fn ip(self, frame: &[u8]) -> Option<&[u8]> {
        let (kind, mut packet) = match self {
            Link::Ip => return Some(frame),
            Link::Ethernet => {
                let (header, packet) = frame.split_first_chunk::<14>()?;
                (field::<12, 2, _>(header), packet)
            }
            Link::Any => {
                let (header, packet) = frame.split_first_chunk::<16>()?;
                (field::<14, 2, _>(header), packet)
            }
            Link::Any2 => {
                let (header, packet) = frame.split_first_chunk::<20>()?;
                (field::<0, 2, _>(header), packet)
            }
        };
        let mut kind = u16::from_be_bytes(kind);
        // IEEE 802.1Q and 802.1ad.
        while matches!(kind, 0x8100 | 0x88a8) {
            let (tag, behind) = packet.split_first_chunk::<4>()?;
            kind = u16::from_be_bytes(field::<2, 2, _>(tag));
            packet = behind;
        }
        matches!(kind, 0x0800 | 0x86dd).then_some(packet)
    }
}

/// Source, destination and payload of an IP packet that holds the beginning of a UDP datagram.
fn udp(packet: &[u8]) -> Option<(SocketAddr, SocketAddr, &[u8])> {
    let (source, destination, datagram) = match packet.first()? >> 4 {
        4 => udp_over_v4(packet)?,
        6 => udp_over_v6(packet)?,
        _ => return None,
    };
    let (header, behind) = datagram.split_first_chunk::<8>()?;
    let len = usize::from(u16::from_be_bytes(field::<4, 2, _>(header))).checked_sub(8)?;
    // Ethernet fills up short frames; a recording may hold less than there was.
    let payload = behind.get(..len).unwrap_or(behind);
    let end = |address, port| SocketAddr::new(address, u16::from_be_bytes(port));
    Some((end(source, field::<0, 2, _>(header)), end(destination, field::<2, 2, _>(header)), payload))
}

/// RFC 791.
fn udp_over_v4(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let header = packet.first_chunk::<20>()?;
    let [first] = field::<0, 1, _>(header);
    let fragment_offset = u16::from_be_bytes(field::<6, 2, _>(header)) & 0x1fff;
    let header_len = usize::from(first & 0x0f) * 4;
    let behind = packet.get(header_len..)?;
    let is_ours = header_len >= header.len() && field::<9, 1, _>(header) == [UDP] && fragment_offset == 0;
    is_ours.then(|| (field::<12, 4, _>(header).into(), field::<16, 4, _>(header).into(), behind))
}

/// RFC 8200.
fn udp_over_v6(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let (header, mut behind) = packet.split_first_chunk::<40>()?;
    let [mut next] = field::<6, 1, _>(header);
    loop {
        let (extension, _) = match next {
            UDP => break,
            0 | 43 | 44 | 60 => behind.split_first_chunk::<8>()?,
            _ => return None,
        };
        let len = match next {
            44 if u16::from_be_bytes(field::<2, 2, _>(extension)) & 0xfff8 != 0 => return None,
            44 => 8,
            _ => 8 + usize::from(extension[1]) * 8,
        };
        next = extension[0];
        behind = behind.get(len..)?;
    }
    let address = |bytes: [u8; 16]| IpAddr::from(Ipv6Addr::from(bytes));
    Some((address(field::<8, 16, _>(header)), address(field::<24, 16, _>(header)), behind))
}

/// The protocol number of UDP.
const UDP: u8 = 17;
