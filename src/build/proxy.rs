//! The proxy of a pool as programs are told of it: variables in the container's environment, and which
//! hosts are reached without it.
//!
//! There is no one rule for these variables: curl (and so git) reads `http_proxy` only in lower case,
//! others only upper case, so both are set. A name in `NO_PROXY` counts with everything below it.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::EnvVar;

use super::network_policy::host_and_port;

/// What is always reached without the proxy: the Pod itself, the Services, and the API server, whose
/// address the kubelet fills in.
const INSIDE: [&str; 6] =
    ["localhost", "127.0.0.1", "::1", ".svc", ".cluster.local", "$(KUBERNETES_SERVICE_HOST)"];

/// The variables of a container behind `proxy`; none without one. `api_url` is where `publish` posts to.
pub fn environment(proxy: Option<&str>, no_proxy: &[String], api_url: Option<&str>) -> Vec<EnvVar> {
    let Some(proxy) = proxy else { return Vec::new() };
    let api = api_url.and_then(host_and_port).map(|(host, _)| host).filter(|host| !is_inside(host));
    let own = no_proxy.iter().map(String::as_str).chain(api.as_deref());
    let direct = INSIDE.into_iter().chain(own).collect::<Vec<_>>().join(",");
    let all = [("HTTP_PROXY", proxy), ("HTTPS_PROXY", proxy), ("NO_PROXY", direct.as_str())];
    let both = all.into_iter().flat_map(|(name, value)| {
        [name.to_string(), name.to_ascii_lowercase()].map(|name| (name, value.to_string()))
    });
    both.map(|(name, value)| EnvVar { name, value: Some(value), value_from: None }).collect()
}

/// Whether programs reach `host` without the proxy.
pub fn is_direct(host: &str, no_proxy: &[String]) -> bool {
    is_inside(host) || no_proxy.iter().any(|entry| is_covered(host, entry))
}

fn is_inside(host: &str) -> bool {
    INSIDE.iter().any(|entry| is_covered(host, entry))
}

/// Whether an entry of `NO_PROXY` is this host, a domain it is in, or a range of addresses it is in.
fn is_covered(host: &str, entry: &str) -> bool {
    let (host, domain) = (host.to_ascii_lowercase(), entry.trim_start_matches('.').to_ascii_lowercase());
    let in_range = || {
        let (range, bits) = entry.split_once('/')?;
        Some(in_prefix(host.parse().ok()?, range.parse().ok()?, bits.parse().ok()?))
    };
    host == domain
        || host.strip_suffix(&domain).is_some_and(|rest| rest.ends_with('.'))
        || in_range().unwrap_or(false)
}

/// Whether the first `bits` bits of both addresses are the same.
fn in_prefix(address: IpAddr, range: IpAddr, bits: u32) -> bool {
    let same =
        |difference: u128, width: u32| bits <= width && difference.leading_zeros() >= 128 - width + bits;
    match (address, range) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same((u32::from(a) ^ u32::from(b)).into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(u128::from(a) ^ u128::from(b), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(all: &[&str]) -> Vec<String> {
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn programs_are_told_in_both_cases_and_the_cluster_is_left_out() {
        assert_eq!(environment(None, &strings(&["a"]), Some("http://api:80")), []);
        let of = |api| environment(Some("http://proxy:3128"), &strings(&["git.corp", "10.0.0.0/8"]), api);
        let env = of(Some("http://10.96.4.4:4301"));
        let names: Vec<&str> = env.iter().map(|variable| variable.name.as_str()).collect();
        assert_eq!(names, ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"]);
        assert!(env[..4].iter().all(|variable| variable.value.as_deref() == Some("http://proxy:3128")));
        let inside =
            "localhost,127.0.0.1,::1,.svc,.cluster.local,$(KUBERNETES_SERVICE_HOST),git.corp,10.0.0.0/8";
        assert_eq!(env[4].value, Some(format!("{inside},10.96.4.4")));
        assert_eq!(env[5].value, env[4].value);
        assert_eq!(of(Some("http://ot-api.opentiger.svc:4301"))[4].value.as_deref(), Some(inside));
    }

    #[test]
    fn a_name_stands_for_what_is_below_it_and_a_range_for_its_addresses() {
        let own = strings(&["corp.example", ".lab.example", "10.1.0.0/16", "fd00::/8"]);
        for host in [
            "git.demo.svc",
            "git.demo.svc.cluster.local",
            "corp.example",
            "GIT.corp.example",
            "a.lab.example",
            "10.1.200.3",
            "fd12::1",
        ] {
            assert!(is_direct(host, &own), "{host}");
        }
        for host in ["github.com", "notcorp.example", "10.2.0.1", "fe80::1", "svc.example", "1.10.1.0"] {
            assert!(!is_direct(host, &own), "{host}");
        }
        assert!(in_prefix("1.2.3.4".parse().unwrap(), "9.9.9.9".parse().unwrap(), 0));
        assert!(!in_prefix("1.2.3.4".parse().unwrap(), "1.2.3.4".parse().unwrap(), u32::MAX));
    }
}
