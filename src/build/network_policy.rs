//! The NetworkPolicy of an AgentPool: nothing comes in, and only what the pool names is reached.

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kube::api::ObjectMeta;

use super::proxy::is_direct;
use crate::crd::pool::EgressRule;
use crate::crd::{AgentPool, labels};

/// Ranges that a model or a repository's code has no business in by default: private and link-local.
const PRIVATE: [&str; 5] =
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"];

/// As [`PRIVATE`]: local and link-local.
const PRIVATE_V6: [&str; 2] = ["fc00::/7", "fe80::/10"];
/// Link-local: there is no git host, API or proxy, but on many clouds the node's own credentials.
const LINK_LOCAL: &str = "169.254.0.0/16";
const LINK_LOCAL_V6: &str = "fe80::/10";

/// Port of the API's Pods, whatever port their Service has. Their metrics have another.
const API_PORT: i32 = 4301;

/// Builds the policy of `pool`. `repository_url` adds the way to the git host: a NetworkPolicy knows
/// no host names, so a Service of the cluster is reached by its namespace and an outside host by its
/// port. Behind the pool's proxy git needs no way of its own, but the proxy does. `api_url` adds the way
/// to the API, where `publish` hands over a plan and keeps prompts and changes under review; of a Service
/// only to the Pods of the component `api`, because the policy holds for the agent as well.
pub fn build_network_policy(
    pool: &AgentPool,
    repository_url: Option<&str>,
    api_url: Option<&str>,
) -> NetworkPolicy {
    let mut egress = vec![dns()];
    egress.extend(repository_url.filter(|url| !is_proxied(pool, url)).and_then(host));
    egress.extend(pool.spec.proxy_url.as_deref().and_then(host));
    egress.extend(api_url.and_then(api));
    match &pool.spec.egress {
        Some(own) => egress.extend(own.allow.iter().map(rule)),
        None => egress.push(everywhere(&PRIVATE, &PRIVATE_V6, &[443, 22])),
    }
    NetworkPolicy {
        metadata: ObjectMeta {
            name: Some(format!("opentiger-pool-{}", pool.name_any())),
            namespace: pool.namespace(),
            labels: Some(
                [
                    (labels::MANAGED_BY.to_string(), labels::MANAGER.to_string()),
                    (labels::POOL.to_string(), pool.name_any()),
                ]
                .into(),
            ),
            owner_references: Some(vec![OwnerReference {
                api_version: format!("{}/{}", crate::crd::GROUP, crate::crd::VERSION),
                kind: "AgentPool".into(),
                name: pool.name_any(),
                uid: pool.uid().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some([(labels::POOL.to_string(), pool.name_any())].into()),
                match_expressions: None,
            }),
            policy_types: Some(vec!["Ingress".into(), "Egress".into()]),
            ingress: None,
            egress: Some(egress),
        }),
    }
}

/// Whether git reaches this URL through the pool's proxy. Only http and https go through one.
fn is_proxied(pool: &AgentPool, url: &str) -> bool {
    let is_http = url.starts_with("http://") || url.starts_with("https://");
    let is_direct = || host_and_port(url).is_none_or(|(host, _)| is_direct(&host, &pool.spec.no_proxy));
    pool.spec.proxy_url.is_some() && is_http && !is_direct()
}

fn dns() -> NetworkPolicyEgressRule {
    NetworkPolicyEgressRule { ports: Some(vec![port("UDP", 53), port("TCP", 53)]), to: None }
}

fn rule(rule: &EgressRule) -> NetworkPolicyEgressRule {
    NetworkPolicyEgressRule {
        ports: (!rule.ports.is_empty()).then(|| rule.ports.iter().map(|p| port("TCP", *p)).collect()),
        to: Some(vec![range(&rule.cidr, rule.except.clone())]),
    }
}

/// Every address of either family, but for some ranges.
fn everywhere(except: &[&str], except_v6: &[&str], ports: &[i32]) -> NetworkPolicyEgressRule {
    let strings = |all: &[&str]| all.iter().map(ToString::to_string).collect();
    NetworkPolicyEgressRule {
        ports: Some(ports.iter().map(|p| port("TCP", *p)).collect()),
        to: Some(vec![range("0.0.0.0/0", strings(except)), range("::/0", strings(except_v6))]),
    }
}

fn range(cidr: &str, except: Vec<String>) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        ip_block: Some(IPBlock { cidr: cidr.into(), except: (!except.is_empty()).then_some(except) }),
        ..NetworkPolicyPeer::default()
    }
}

fn port(protocol: &str, port: i32) -> NetworkPolicyPort {
    NetworkPolicyPort { protocol: Some(protocol.into()), port: Some(IntOrString::Int(port)), end_port: None }
}

/// The way to the API.
fn api(url: &str) -> Option<NetworkPolicyEgressRule> {
    let mut rule = host(url)?;
    for peer in rule.to.iter_mut().flatten().filter(|peer| peer.namespace_selector.is_some()) {
        let labels = [(labels::APP, labels::MANAGER), (labels::COMPONENT, "api")];
        peer.pod_selector = Some(LabelSelector {
            match_labels: Some(labels.map(|(key, value)| (key.to_string(), value.to_string())).into()),
            match_expressions: None,
        });
        rule.ports = Some(vec![port("TCP", API_PORT)]);
    }
    Some(rule)
}

/// The way to the host of a URL.
fn host(url: &str) -> Option<NetworkPolicyEgressRule> {
    let (host, port_number) = host_and_port(url)?;
    if let Some(namespace) = service_namespace(&host) {
        return Some(NetworkPolicyEgressRule {
            ports: None,
            to: Some(vec![NetworkPolicyPeer {
                namespace_selector: Some(LabelSelector {
                    match_labels: Some([("kubernetes.io/metadata.name".to_string(), namespace)].into()),
                    match_expressions: None,
                }),
                ..NetworkPolicyPeer::default()
            }]),
        });
    }
    let cidr = match host.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(ip)) => format!("{ip}/32"),
        Ok(std::net::IpAddr::V6(ip)) => format!("{ip}/128"),
        Err(_) => return Some(everywhere(&[LINK_LOCAL], &[LINK_LOCAL_V6], &[port_number])),
    };
    Some(rule(&EgressRule { cidr, except: Vec::new(), ports: vec![port_number] }))
}

/// Host and port of an `http`, `https`, `ssh` or `user@host:path` URL.
pub(super) fn host_and_port(url: &str) -> Option<(String, i32)> {
    let (default, rest) = match url.split_once("://") {
        Some(("https", rest)) => (443, rest),
        Some(("http", rest)) => (80, rest),
        Some(("ssh", rest)) => (22, rest),
        Some(_) => return None,
        None => {
            let (_, rest) = url.split_once('@')?;
            let (host, _) = rest.split_once(':')?;
            return Some((host.to_string(), 22));
        }
    };
    let authority = rest.split('/').next()?;
    let authority = authority.rsplit('@').next()?;
    if let Some(v6) = authority.strip_prefix('[') {
        let (host, tail) = v6.split_once(']')?;
        return Some((host.into(), tail.trim_start_matches(':').parse().unwrap_or(default)));
    }
    match authority.rsplit_once(':') {
        Some((host, port)) => Some((host.into(), port.parse().ok()?)),
        None => Some((authority.into(), default)),
    }
}

/// `ns` of `name.ns.svc` and `name.ns.svc.<cluster domain>`.
fn service_namespace(host: &str) -> Option<String> {
    let mut parts = host.split('.');
    let (_, namespace, svc) = (parts.next()?, parts.next()?, parts.next()?);
    (svc == "svc").then(|| namespace.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{AgentPoolSpec, Role};

    #[test]
    fn every_pool_reaches_the_api_and_nothing_beside_it() {
        for role in [Role::Worker, Role::Tester, Role::Docser, Role::Judge, Role::Planner] {
            let mut pool = AgentPool::new("p", AgentPoolSpec { role, ..AgentPoolSpec::default() });
            pool.spec.egress = Some(crate::crd::pool::Egress::default());
            let url = Some("http://ot-api.opentiger.svc:80");
            let spec = build_network_policy(&pool, None, url).spec.expect("spec");
            let egress = spec.egress.expect("rules");
            let [_, api] = &egress[..] else { panic!("DNS and the API: {egress:?}") };
            let peers = serde_json::to_value(&api.to).expect("json");
            let one = serde_json::json!([{
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "opentiger"}},
                "podSelector": {"matchLabels": {
                    "app.kubernetes.io/name": "opentiger",
                    "app.kubernetes.io/component": "api",
                }},
            }]);
            assert_eq!(peers, one, "{role:?}");
            assert_eq!(api.ports, Some(vec![port("TCP", 4301)]), "not that of the metrics");
            assert_eq!(
                build_network_policy(&pool, None, None).spec.expect("spec").egress.map(|all| all.len()),
                Some(1)
            );
        }
    }

    /// Each rule as `address ports`, without DNS.
    fn rules(pool: &AgentPool, url: &str) -> Vec<String> {
        let spec = build_network_policy(pool, Some(url), None).spec.expect("spec");
        assert_eq!(spec.ingress, None);
        assert_eq!(spec.policy_types, Some(vec!["Ingress".into(), "Egress".into()]));
        let described = |rule: &NetworkPolicyEgressRule| {
            let ports = rule.ports.iter().flatten().filter_map(|port| match &port.port {
                Some(IntOrString::Int(number)) => Some(number.to_string()),
                Some(IntOrString::String(_)) | None => None,
            });
            let ports: Vec<String> = ports.collect();
            let to = rule.to.iter().flatten().map(|peer| match (&peer.ip_block, &peer.namespace_selector) {
                (Some(block), _) => {
                    let except = block.except.iter().flatten().map(|range| format!("-{range}"));
                    format!("{}{}", block.cidr, except.collect::<String>())
                }
                (None, Some(_)) => "namespace".into(),
                (None, None) => "?".into(),
            });
            format!("{} {}", to.collect::<Vec<_>>().join("|"), ports.join(","))
        };
        spec.egress.iter().flatten().skip(1).map(described).collect()
    }

    const NOT_LINK_LOCAL: &str = "0.0.0.0/0-169.254.0.0/16|::/0-fe80::/10";

    #[test]
    fn by_default_443_and_22_outside_private_ranges_and_the_git_host() {
        let pool = AgentPool::new("p", AgentPoolSpec::default());
        let default = "0.0.0.0/0-10.0.0.0/8-172.16.0.0/12-192.168.0.0/16-169.254.0.0/16-100.64.0.0/10|::/0-fc00::/7-fe80::/10 443,22";
        let named = format!("{NOT_LINK_LOCAL} 8443");
        assert_eq!(rules(&pool, "https://git.example.com:8443/a.git"), [named.as_str(), default]);
        assert_eq!(rules(&pool, "https://10.1.2.3/a.git"), ["10.1.2.3/32 443", default]);
        assert_eq!(rules(&pool, "http://git.demo.svc/a.git"), ["namespace ", default]);
    }

    #[test]
    fn behind_a_proxy_only_the_proxy_is_reached_where_the_pool_allows_nothing_else() {
        let mut pool = AgentPool::new("p", AgentPoolSpec::default());
        pool.spec.egress = Some(crate::crd::pool::Egress::default());
        pool.spec.proxy_url = Some("http://10.0.0.9:3128".into());
        pool.spec.no_proxy = vec!["git.corp".into()];
        assert_eq!(rules(&pool, "https://git.example.com/a.git"), ["10.0.0.9/32 3128"]);
        // What does not go through the proxy has its own way.
        let (corp, ssh) = (format!("{NOT_LINK_LOCAL} 443"), format!("{NOT_LINK_LOCAL} 22"));
        assert_eq!(rules(&pool, "https://git.corp/a.git"), [corp.as_str(), "10.0.0.9/32 3128"]);
        assert_eq!(rules(&pool, "git@git.example.com:a.git"), [ssh.as_str(), "10.0.0.9/32 3128"]);
        assert_eq!(rules(&pool, "http://git.demo.svc/a.git"), ["namespace ", "10.0.0.9/32 3128"]);
        pool.spec.proxy_url = Some("http://proxy.net.svc:3128".into());
        assert_eq!(rules(&pool, "https://git.example.com/a.git"), ["namespace "]);
    }

    #[test]
    fn hosts_and_ports_are_read_from_every_url_form() {
        let of = |u: &str| host_and_port(u);
        assert_eq!(of("https://git.example.com/a/b.git"), Some(("git.example.com".into(), 443)));
        assert_eq!(
            of("http://git.demo.svc.cluster.local:8080/a.git"),
            Some(("git.demo.svc.cluster.local".into(), 8080))
        );
        assert_eq!(of("ssh://git@host:2222/a"), Some(("host".into(), 2222)));
        assert_eq!(of("git@host.example:team/a.git"), Some(("host.example".into(), 22)));
        assert_eq!(service_namespace("git.demo.svc.cluster.local"), Some("demo".into()));
        assert_eq!(service_namespace("git.example.com"), None);
    }
}
