//! Who is at the other end: the socket's address, or what a trusted proxy says of it.

use std::net::IpAddr;
use std::str::FromStr;

use axum::http::HeaderMap;

/// The socket's address, in the extensions of every request that came by a socket.
#[derive(Clone, Copy, Debug)]
pub struct Socket(pub IpAddr);

/// A range of addresses, such as `10.0.0.0/8`; an address alone is a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: IpAddr,
    bits: u32,
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text}: must be an address range such as 10.0.0.0/8 or fd00::/8");
        let (base, bits) = match text.split_once('/') {
            Some((base, bits)) => (base, Some(bits)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| bad())?;
        let widest = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(widest), str::parse).map_err(|_| bad())?;
        if bits > widest { Err(bad()) } else { Ok(Self { base, bits }) }
    }
}

impl Cidr {
    /// Whether the address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let shift = 32 - self.bits;
                base.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let shift = 128 - self.bits;
                base.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// The client's address: that of the socket, unless the socket is a trusted proxy's. Then the right-most
/// hop of `X-Forwarded-For` that is no trusted proxy: what stands left of it was said by the client.
pub fn client(socket: IpAddr, headers: &HeaderMap, proxies: &[Cidr]) -> IpAddr {
    let trusted = |address: IpAddr| proxies.iter().any(|range| range.contains(address));
    let mut client = socket.to_canonical();
    let values: Vec<&str> =
        headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect();
    let mut hops = values.iter().rev().flat_map(|value| value.rsplit(','));
    while trusted(client) {
        match hops.next().and_then(hop) {
            Some(address) => client = address,
            None => break,
        }
    }
    client
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`.
fn hop(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let address = text.parse().ok().or_else(|| text.parse().ok().map(|s: std::net::SocketAddr| s.ip()));
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    address.or_else(bracketed).map(|a: IpAddr| a.to_canonical())
}

/// What limits count by: one IPv4 address, or the 64 bits of a network whose every address one client
/// may use.
pub fn bucket(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            format!("{}/64", std::net::Ipv6Addr::from_bits(address.to_bits() >> 64 << 64))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-forwarded-for", value.parse().expect("value"));
        }
        headers
    }

    fn seen(socket: &str, values: &[&str], proxies: &[&str]) -> String {
        let proxies: Vec<Cidr> = proxies.iter().map(|p| p.parse().expect("range")).collect();
        client(socket.parse().expect("address"), &headers(values), &proxies).to_string()
    }

    #[test]
    fn only_a_trusted_proxy_may_say_who_the_client_is() {
        let inside = ["10.0.0.0/8", "::1"];
        for (socket, values, expected) in [
            ("192.0.2.1", &["203.0.113.9"][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["1.2.3.4, 203.0.113.9, 10.9.9.9"], "203.0.113.9"),
            ("10.0.0.1", &["1.2.3.4", "203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["1.2.3.4, not-an-address"], "10.0.0.1"),
            ("10.0.0.1", &["1.2.3.4, garbage, 10.2.2.2"], "10.2.2.2"),
            ("::ffff:10.0.0.1", &["203.0.113.9:4000"], "203.0.113.9"),
            ("::1", &["[2001:db8::1]:80"], "2001:db8::1"),
            ("::1", &["[2001:db8::1]"], "2001:db8::1"),
            ("::1", &["10.0.0.1, 10.0.0.2"], "10.0.0.1"),
        ] {
            assert_eq!(seen(socket, values, &inside), expected, "{socket} {values:?}");
        }
        assert_eq!(seen("10.0.0.1", &["203.0.113.9"], &[]), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &["203.0.113.9"], &["0.0.0.0/0"]), "203.0.113.9");
    }

    #[test]
    fn ranges_are_checked() {
        for bad in
            ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/", "10.0.0.0/-1", "host", "1.1.1.1/8/8"]
        {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
        assert_eq!(bucket("2001:db8:1:2:3::4".parse().expect("address")), "2001:db8:1:2::/64");
    }
}
