//! The header by which a proxy of the transport layer tells whose connection it passes on: versions 1 and 2 of the
//! PROXY protocol. Pure; reads what strangers write.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// How a header of version 2 begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// How one of version 1 begins, and the longest it can be.
const WORD: &[u8] = b"PROXY ";
const LONGEST_LINE: usize = 107;

/// The fixed part of version 2.
const FIXED: usize = 16;

/// The longest header taken. Addresses and the extensions in use are far shorter.
pub(super) const LONGEST: usize = 4096;

/// What a whole header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Its length.
    pub(super) length: usize,
    /// The client; `None`: the connection is the proxy's own, or of a kind that has no such address.
    pub(super) client: Option<SocketAddr>,
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A header, and perhaps more behind it.
    Whole(Header),
    /// The beginning of one.
    Partial,
    /// Something else.
    Malformed,
}

/// Reads a header at the beginning of `bytes`.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(a, b)| a == b);
    if begins(SIGNATURE) {
        parse_binary(bytes)
    } else if begins(WORD) {
        parse_line(bytes)
    } else {
        Parsed::Malformed
    }
}

/// `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443`, or `PROXY UNKNOWN` and anything.
fn parse_line(bytes: &[u8]) -> Parsed {
    let line = bytes.get(..LONGEST_LINE).unwrap_or(bytes);
    let Some(end) = line.windows(2).position(|two| two == b"\r\n") else {
        return if bytes.len() < LONGEST_LINE { Parsed::Partial } else { Parsed::Malformed };
    };
    let text = line.get(WORD.len()..end).and_then(|text| std::str::from_utf8(text).ok());
    let whole = |client| Parsed::Whole(Header { length: end + 2, client });
    let Some(text) = text else { return Parsed::Malformed };
    let words: Vec<_> = text.split(' ').collect();
    match words[..] {
        ["UNKNOWN", ..] => whole(None),
        ["TCP4", source, destination, from, to] => {
            match (source.parse::<Ipv4Addr>(), destination.parse::<Ipv4Addr>(), port(from), port(to)) {
                (Ok(source), Ok(_), Some(from), Some(_)) => whole(Some(client(source.into(), from))),
                _ => Parsed::Malformed,
            }
        }
        ["TCP6", source, destination, from, to] => {
            match (source.parse::<Ipv6Addr>(), destination.parse::<Ipv6Addr>(), port(from), port(to)) {
                (Ok(source), Ok(_), Some(from), Some(_)) => whole(Some(client(source.into(), from))),
                _ => Parsed::Malformed,
            }
        }
        _ => Parsed::Malformed,
    }
}

fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

fn parse_binary(bytes: &[u8]) -> Parsed {
    let Some([version_and_command, kind, high, low]) = bytes.get(SIGNATURE.len()..FIXED) else {
        return Parsed::Partial;
    };
    let length = FIXED + usize::from(u16::from_be_bytes([*high, *low]));
    // Version 2, and LOCAL or PROXY.
    if !matches!(version_and_command, 0x20 | 0x21) || length > LONGEST {
        return Parsed::Malformed;
    }
    let Some(rest) = bytes.get(FIXED..length) else { return Parsed::Partial };
    let client = match (version_and_command, kind) {
        (0x21, 0x11) => match rest {
            [a, b, c, d, _, _, _, _, high, low, _, _, ..] => {
                Some(client(Ipv4Addr::new(*a, *b, *c, *d).into(), u16::from_be_bytes([*high, *low])))
            }
            _ => return Parsed::Malformed,
        },
        (0x21, 0x21) => match (rest.first_chunk::<16>(), rest.get(32..36)) {
            (Some(source), Some([high, low, _, _])) => {
                Some(client(Ipv6Addr::from(*source).into(), u16::from_be_bytes([*high, *low])))
            }
            _ => return Parsed::Malformed,
        },
        _ => None,
    };
    Parsed::Whole(Header { length, client })
}

/// An IPv4 address in IPv6 form is the IPv4 address, as it is everywhere else.
fn client(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.to_canonical(), port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn binary(version_and_command: u8, kind: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[version_and_command, kind], &length, rest].concat()
    }

    fn addresses(client: SocketAddr) -> Vec<u8> {
        let ip = match client.ip() {
            IpAddr::V4(ip) => [ip.octets(), [10, 0, 0, 1]].concat(),
            IpAddr::V6(ip) => [ip.octets(), [0xfd; 16]].concat(),
        };
        [&ip[..], &client.port().to_be_bytes(), &443_u16.to_be_bytes()].concat()
    }

    fn line(client: SocketAddr) -> Vec<u8> {
        let (kind, here) = if client.is_ipv4() { ("TCP4", "10.0.0.1") } else { ("TCP6", "fd00::1") };
        format!("PROXY {kind} {} {here} {} 443\r\n", client.ip(), client.port()).into_bytes()
    }

    fn whole(length: usize, client: Option<SocketAddr>) -> Parsed {
        Parsed::Whole(Header { length, client })
    }

    fn an_address() -> impl Strategy<Value = SocketAddr> {
        let ip = prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::from(Ipv4Addr::from_bits(bits))),
            any::<u128>().prop_map(|bits| IpAddr::from(Ipv6Addr::from_bits(bits)).to_canonical()),
        ];
        (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
    }

    proptest! {
        /// Each beginning of a header is one, the whole is whole, and what follows is left alone.
        #[test]
        fn a_header_is_found_however_it_arrives(
            client in an_address(),
            is_line in any::<bool>(),
            extensions in prop::collection::vec(any::<u8>(), 0..100),
            follows in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let kind = if client.is_ipv4() { 0x11 } else { 0x21 };
            let header = if is_line {
                line(client)
            } else {
                binary(0x21, kind, &[addresses(client), extensions].concat())
            };
            for length in 0..header.len() {
                prop_assert_eq!(parse(&header[..length]), Parsed::Partial, "{}", length);
            }
            let parsed = parse(&[header.clone(), follows].concat());
            prop_assert_eq!(parsed, whole(header.len(), Some(client)));
        }

        /// Whatever comes, the answer is one of three, is final once it is no longer partial, and comes before
        /// more is read than is kept.
        #[test]
        fn nothing_makes_it_panic_or_read_on_for_ever(
            start in prop::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 ", SIGNATURE, b"\r\n\r\n\0\r\nQUIT\n\x21\x11"]),
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let all = [start, &bytes].concat();
            let mut settled = None;
            for length in 0..=all.len() {
                match (parse(&all[..length]), settled) {
                    (Parsed::Partial, None) => {}
                    (parsed, None) => settled = Some(parsed),
                    (parsed, Some(before)) => prop_assert_eq!(parsed, before),
                }
                if let Some(Parsed::Whole(header)) = settled {
                    prop_assert!(header.length <= length && header.length <= LONGEST);
                }
            }
        }
    }

    #[test]
    fn a_connection_of_the_proxys_own_names_nobody() {
        for header in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n".to_vec(),
            binary(0x20, 0x00, b""),
            binary(0x20, 0x11, &[1; 12]),
            binary(0x21, 0x00, b""),
            binary(0x21, 0x31, &[0; 216]),
            binary(0x21, 0x12, &[1; 12]),
        ] {
            assert_eq!(parse(&header), whole(header.len(), None), "{header:?}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused_as_soon_as_it_can_be_known() {
        for text in [
            "GET / HTTP/1.1\r\n\r\n",
            "proxy TCP4 1.2.3.4 1.2.3.4 1 1\r\n",
            "PROXY  TCP4 1.2.3.4 1.2.3.4 1 1\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 1 1\r\n",
            "PROXY TCP4 1.2.3.04 1.2.3.4 1 1\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 +1 1\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n",
            "PROXY TCP4 ::1 ::1 1 1\r\n",
            "PROXY TCP6 1.2.3.4 1.2.3.4 1 1\r\n",
            "PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n",
            "PROXY TCP4 \u{e9}.2.3.4 1.2.3.4 1 1\r\n",
        ] {
            assert_eq!(parse(text.as_bytes()), Parsed::Malformed, "{text:?}");
        }
        assert_eq!(parse(b"G"), Parsed::Malformed);
        assert_eq!(parse(&[b"PROXY UNKNOWN ", &[b'x'; 93][..]].concat()), Parsed::Malformed);
        for (command, kind, rest) in [
            (0x11, 0x11, &[1; 12][..]),
            (0x22, 0x11, &[1; 12]),
            (0x21, 0x11, &[1; 11]),
            (0x21, 0x21, &[1; 35]),
            (0x21, 0x00, &[0; LONGEST]),
        ] {
            assert_eq!(parse(&binary(command, kind, rest)), Parsed::Malformed, "{command:x} {kind:x}");
        }
        let mapped = parse(b"PROXY TCP6 ::ffff:192.0.2.1 ::1 7 8\r\n");
        assert_eq!(mapped, whole(37, Some("192.0.2.1:7".parse().unwrap())));
    }
}
