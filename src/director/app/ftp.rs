//! What FTP says about data connections: commands of clients and answers of servers (RFC 959, RFC 2428).
//!
//! Text alone. It is read line by line, and a line counts where it begins in the packet and goes on at least until the
//! character behind what matters; one that is cut before is passed over, as in `ip_vs_ftp_get_addrport`.

use crate::director::service::Family;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::str::FromStr;

/// What a client wants to come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The server shall wait, and tell where (`PASV`, `EPSV`).
    Passive,
    /// The server shall connect to where the client waits (`PORT`, `EPRT`).
    Active(SocketAddr),
}

/// A server's answer that tells where it waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The port on which it waits.
    pub port: u16,
    /// Which bytes of the payload say so.
    pub place: Range<usize>,
    form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// 227: six numbers, of address and port.
    AddressAndPort,
    /// 229: a port.
    Port,
}

/// The commands in a client's packet, in their order.
pub fn commands(payload: &[u8], family: Family) -> impl Iterator<Item = Command> + '_ {
    lines(payload).filter_map(move |(_, line)| command(line, family))
}

/// The first answer in a server's packet.
pub fn answer(payload: &[u8], family: Family) -> Option<Answer> {
    lines(payload).find_map(|(start, line)| {
        let (code, text) = line.split_at_checked(4)?;
        let (place, port, form) = match (code, family) {
            (b"227 ", Family::V4) => address_and_port(text)?,
            (b"229 ", _) => extended_port(text)?,
            _ => return None,
        };
        let start = start + code.len();
        Some(Answer { port, place: start + place.start..start + place.end, form })
    })
}

impl Answer {
    /// What says in its place that somebody waits at `address`.
    pub fn telling(&self, address: SocketAddr) -> Vec<u8> {
        match (self.form, address) {
            (Form::AddressAndPort, SocketAddr::V4(address)) => {
                let [a, b, c, d] = address.ip().octets();
                let [high, low] = address.port().to_be_bytes();
                format!("{a},{b},{c},{d},{high},{low}").into_bytes()
            }
            (Form::AddressAndPort | Form::Port, address) => address.port().to_string().into_bytes(),
        }
    }
}

/// Each line, with where it begins.
fn lines(payload: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    payload.split_inclusive(|&byte| byte == b'\n').scan(0, |at, line| {
        let start = *at;
        *at += line.len();
        Some((start, line))
    })
}

fn command(line: &[u8], family: Family) -> Option<Command> {
    let (word, rest) = line.split_at_checked(4)?;
    let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
    if is(b"PASV") {
        return (family == Family::V4 && rest == b"\r\n").then_some(Command::Passive);
    }
    if is(b"EPSV") {
        let of_family: &[u8] = match family {
            Family::V4 => b" 1\r",
            Family::V6 => b" 2\r",
        };
        return (rest.starts_with(b"\r") || rest.starts_with(of_family)).then_some(Command::Passive);
    }
    let text = rest.strip_prefix(b" ")?;
    let waits = if is(b"PORT") && family == Family::V4 {
        endpoint(six_numbers(text)?.0)
    } else if is(b"EPRT") {
        extended_endpoint(text, family)
    } else {
        None
    };
    waits.map(Command::Active)
}

/// The first six numbers in a line, from wherever they begin: not all servers write parentheses around them.
fn address_and_port(text: &[u8]) -> Option<(Range<usize>, u16, Form)> {
    let begins = |&at: &usize| {
        text[at].is_ascii_digit() && at.checked_sub(1).is_none_or(|before| !text[before].is_ascii_digit())
    };
    (0..text.len()).filter(begins).find_map(|at| {
        let (numbers, len) = six_numbers(&text[at..])?;
        Some((at..at + len, endpoint(numbers)?.port(), Form::AddressAndPort))
    })
}

/// `(|||port|)`, with whatever character between.
fn extended_port(text: &[u8]) -> Option<(Range<usize>, u16, Form)> {
    let opened = text.iter().position(|&byte| byte == b'(')?;
    let (&[first, second, third], rest) = text.get(opened + 1..)?.split_first_chunk()?;
    let is_separator = first.is_ascii_graphic() && !first.is_ascii_digit();
    if !is_separator || [second, third] != [first; 2] {
        return None;
    }
    let len = rest.iter().position(|&byte| byte == first)?;
    let port = number(&rest[..len]).filter(|port| *port != 0)?;
    let start = opened + 4;
    Some((start..start + len, port, Form::Port))
}

/// `|1|address|port|`, with whatever character between.
fn extended_endpoint(text: &[u8], family: Family) -> Option<SocketAddr> {
    let (&separator, rest) = text.split_first()?;
    if !separator.is_ascii_graphic() || separator.is_ascii_digit() {
        return None;
    }
    let mut parts = rest.splitn(4, |&byte| byte == separator);
    let mut part = || parts.next();
    let (protocol, address, port, _behind) = (part()?, part()?, part()?, part()?);
    let address: IpAddr = std::str::from_utf8(address).ok()?.parse().ok()?;
    let expected: &[u8] = match family {
        Family::V4 => b"1",
        Family::V6 => b"2",
    };
    let is_right = protocol == expected && Family::of(address) == family;
    let port = number(port).filter(|port| *port != 0 && is_right)?;
    Some(SocketAddr::new(address, port))
}

/// Six numbers of a byte each with commas between, and how long they are. What follows shows that the last is whole.
fn six_numbers(text: &[u8]) -> Option<([u8; 6], usize)> {
    let len = text.iter().position(|byte| !byte.is_ascii_digit() && *byte != b',')?;
    let mut numbers = [0; 6];
    let mut parts = text[..len].split(|&byte| byte == b',');
    for place in &mut numbers {
        *place = number(parts.next()?)?;
    }
    parts.next().is_none().then_some((numbers, len))
}

fn endpoint([a, b, c, d, high, low]: [u8; 6]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes([high, low]);
    (port != 0).then(|| SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), port))
}

/// A number of digits alone.
fn number<T: FromStr>(digits: &[u8]) -> Option<T> {
    let is_number = digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
}

#[cfg(test)]
mod tests;
