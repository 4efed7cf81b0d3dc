//! Whom the Pod of a Run trusts besides the public authorities: one file for the whole Pod, made by
//! `checkout` of the runner image's authorities and the pool's own, and the variables that name it.
//!
//! The programs that read such a variable read no other file then, which is why it holds all of them.

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, EmptyDirVolumeSource, EnvVar, KeyToPath, SecretVolumeSource, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::crd::network::{CaBundleKind, CaBundleRef};
use crate::crd::wire::path;

/// Volume of the pool's own authorities.
const OWN: &str = "ca-bundle";
/// Volume of the file that programs read.
const ALL: &str = "trust";
/// Variables that name a file of trusted authorities, with a program that reads each.
const VARIABLES: [(&str, &str); 7] = [
    ("SSL_CERT_FILE", "OpenSSL, Go, Rust"),
    ("GIT_SSL_CAINFO", "git"),
    ("CURL_CA_BUNDLE", "curl"),
    ("NODE_EXTRA_CA_CERTS", "Node.js, npm"),
    ("REQUESTS_CA_BUNDLE", "Python requests"),
    ("PIP_CERT", "pip"),
    ("CARGO_HTTP_CAINFO", "cargo"),
];

/// The variables of every container.
pub fn environment(bundle: Option<&CaBundleRef>) -> Vec<EnvVar> {
    let variable =
        |name: &str| EnvVar { name: name.into(), value: Some(path::TRUSTED.into()), value_from: None };
    bundle.map(|_| VARIABLES.iter().map(|(name, _)| variable(name)).collect()).unwrap_or_default()
}

/// The volumes. What is named may be missing, so that `checkout` can say so.
pub fn volumes(bundle: Option<&CaBundleRef>) -> Vec<Volume> {
    let Some(bundle) = bundle else { return Vec::new() };
    let items = Some(vec![KeyToPath { key: bundle.key.clone(), path: path::CA_FILE.into(), mode: None }]);
    let own = match bundle.kind {
        CaBundleKind::ConfigMap => Volume {
            config_map: Some(ConfigMapVolumeSource {
                name: bundle.name.clone(),
                items,
                optional: Some(true),
                default_mode: None,
            }),
            ..Volume::default()
        },
        CaBundleKind::Secret => Volume {
            secret: Some(SecretVolumeSource {
                secret_name: Some(bundle.name.clone()),
                items,
                optional: Some(true),
                default_mode: Some(0o440),
            }),
            ..Volume::default()
        },
    };
    let all = EmptyDirVolumeSource { size_limit: Some(Quantity("16Mi".into())), medium: None };
    vec![
        Volume { name: OWN.into(), ..own },
        Volume { name: ALL.into(), empty_dir: Some(all), ..Volume::default() },
    ]
}

/// What `checkout` mounts: it reads the one and writes the other.
pub fn checkout_mounts(bundle: Option<&CaBundleRef>) -> Vec<VolumeMount> {
    bundle
        .map(|_| vec![mount(OWN, path::CA_BUNDLE, true), mount(ALL, path::TRUST, false)])
        .unwrap_or_default()
}

/// What the other containers mount.
pub fn mounts(bundle: Option<&CaBundleRef>) -> Vec<VolumeMount> {
    bundle.map(|_| vec![mount(ALL, path::TRUST, true)]).unwrap_or_default()
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}
