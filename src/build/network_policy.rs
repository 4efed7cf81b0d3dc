//! The NetworkPolicy of an AgentPool: nothing comes in, and only what the pool names is reached.

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kube::api::ObjectMeta;

use crate::crd::pool::{EgressRule, Role};
use crate::crd::{AgentPool, labels};

/// Ranges that a model or a repository's code has no business in by default: private and link-local.
const PRIVATE: [&str; 5] =
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"];

/// Builds the policy of `pool`. `repository_url` adds the way to the git host: a NetworkPolicy knows
/// no host names, so a Service of the cluster is reached by its namespace and an outside host by its
/// port. `api_url` adds the way to the API for a pool of planners, whose Pods hand plans over to it.
pub fn build_network_policy(
    pool: &AgentPool,
    repository_url: Option<&str>,
    api_url: Option<&str>,
) -> NetworkPolicy {
    let mut egress = vec![dns()];
    egress.extend(repository_url.and_then(host));
    egress.extend(api_url.filter(|_| pool.spec.role == Role::Planner).and_then(host));
    match &pool.spec.egress {
        Some(own) => egress.extend(own.allow.iter().map(rule)),
        None => egress.push(rule(&EgressRule {
            cidr: "0.0.0.0/0".into(),
            except: PRIVATE.map(str::to_string).to_vec(),
            ports: vec![443, 22],
        })),
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

fn dns() -> NetworkPolicyEgressRule {
    NetworkPolicyEgressRule { ports: Some(vec![port("UDP", 53), port("TCP", 53)]), to: None }
}

fn rule(rule: &EgressRule) -> NetworkPolicyEgressRule {
    NetworkPolicyEgressRule {
        ports: (!rule.ports.is_empty()).then(|| rule.ports.iter().map(|p| port("TCP", *p)).collect()),
        to: Some(vec![NetworkPolicyPeer {
            ip_block: Some(IPBlock {
                cidr: rule.cidr.clone(),
                except: (!rule.except.is_empty()).then(|| rule.except.clone()),
            }),
            ..NetworkPolicyPeer::default()
        }]),
    }
}

fn port(protocol: &str, port: i32) -> NetworkPolicyPort {
    NetworkPolicyPort { protocol: Some(protocol.into()), port: Some(IntOrString::Int(port)), end_port: None }
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
        Err(_) => "0.0.0.0/0".into(),
    };
    Some(rule(&EgressRule { cidr, except: Vec::new(), ports: vec![port_number] }))
}

/// Host and port of an `http`, `https`, `ssh` or `user@host:path` URL.
fn host_and_port(url: &str) -> Option<(String, i32)> {
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
    use crate::crd::AgentPoolSpec;

    #[test]
    fn only_a_pool_of_planners_reaches_the_api() {
        let pool = |role| AgentPool::new("p", AgentPoolSpec { role, ..AgentPoolSpec::default() });
        let of = |role| {
            let url = Some("http://ot-api.opentiger.svc:4301");
            let policy = build_network_policy(&pool(role), None, url);
            serde_json::to_string(&policy.spec)
                .expect("json")
                .contains(r#""kubernetes.io/metadata.name":"opentiger""#)
        };
        assert!(of(Role::Planner));
        assert!(!of(Role::Worker) && !of(Role::Judge));
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
