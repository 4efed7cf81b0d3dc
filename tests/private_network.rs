//! A cluster without a direct way out: git behind the pool's proxy, and a git server whose certificate
//! only the pool's own authority vouches for.
//!
//! Git is told of both by the environment of its container, so each test starts itself again in one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod git_support;

use std::fs;
use std::io::{BufRead, BufReader, Write, copy};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use git_support::{Pod, Server, git};
use opentiger::crd::network::CaBundleRef;
use opentiger::crd::wire::Outcome;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Nothing but the proxy knows where this is.
const URL: &str = "https://git.private.test/app.git";
/// Where the child finds the Pod's directories.
const CHILD: &str = "OPENTIGER_TEST_PRIVATE_NETWORK";
/// Set: the pool names its authority.
const NAMED: &str = "OPENTIGER_TEST_NAMED";

/// An authority and the settings of a server that it vouches for.
fn authority() -> (String, Arc<ServerConfig>) {
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).expect("certificate").pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().expect("key");
    let of_server = CertificateParams::new(vec!["git.private.test".into()]).expect("parameters");
    let of_server = of_server.signed_by(&key, &issuer).expect("signed");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_no_client_auth();
    (certificate, Arc::new(config.with_single_cert(vec![of_server.der().clone()], key).expect("settings")))
}

/// A proxy that leads every tunnel to `target`. Returns its address and where tunnels were asked for.
fn proxy(target: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("address").to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (target, log) = (target.clone(), log.clone());
            std::thread::spawn(move || tunnel(stream, &target, &log));
        }
    });
    (address, asked)
}

fn tunnel(mut client: TcpStream, target: &str, log: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut line = first.clone();
    while !line.trim().is_empty() {
        line.clear();
        reader.read_line(&mut line).ok()?;
    }
    log.lock().ok()?.push(first.trim_end().to_string());
    let mut server = TcpStream::connect(target).ok()?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
    let (mut up, mut there) = (reader, server.try_clone().ok()?);
    let forth = std::thread::spawn(move || {
        let _ = copy(&mut up, &mut there);
        let _ = there.shutdown(Shutdown::Write);
    });
    let _ = copy(&mut server, &mut client);
    let _ = client.shutdown(Shutdown::Both);
    forth.join().ok()
}

/// A Run's Pod in `directory`, with the pool's authority mounted.
fn pod(directory: &Path) -> Pod {
    let mut pod = Pod::new(URL);
    pod.inputs.spec.pool = "worker".into();
    if std::env::var_os(NAMED).is_some() {
        let bundle = CaBundleRef { name: "corporate-ca".into(), key: "ca.crt".into(), ..Default::default() };
        pod.inputs.spec.template.ca_bundle_ref = Some(bundle);
    }
    pod.paths.authorities = directory.join("own.crt");
    pod.paths.trusted = directory.join("trusted.crt");
    pod
}

#[tokio::test]
async fn git_goes_through_the_proxy_and_trusts_the_pool_s_authority() {
    if let Some(directory) = std::env::var_os(CHILD) {
        let pod = pod(Path::new(&directory));
        let checked_out = pod.checkout().await;
        if std::env::var_os(NAMED).is_none() {
            assert_eq!(checked_out.failure_code.as_deref(), Some("repository_host_not_trusted"));
            assert!(checked_out.summary.contains("caBundleRef of the AgentPool"), "{}", checked_out.summary);
            return;
        }
        assert_eq!(checked_out.outcome, Outcome::Success, "{}", checked_out.summary);
        pod.write("new.txt", "new");
        let published = pod.publish(Outcome::Success).await;
        assert_eq!(published.outcome, Outcome::Success, "{}", published.summary);
        return;
    }
    let (certificate, settings) = authority();
    let server = Server::speaking(move |stream| {
        StreamOwned::new(ServerConnection::new(settings.clone()).expect("connection"), stream)
    });
    let repository = server.seed("app.git", &[("100644", b"README.md", b"hello\n")]);
    let (address, asked) = proxy(server.address.clone());
    let directory = tempfile::tempdir().expect("directory");
    fs::write(directory.path().join("own.crt"), certificate).expect("written");
    for named in [false, true] {
        let mut child = Command::new(std::env::current_exe().expect("test"));
        child.args(["--exact", "git_goes_through_the_proxy_and_trusts_the_pool_s_authority", "--nocapture"]);
        child.env(CHILD, directory.path());
        // As `build::proxy` and `build::trust` write it into the Pod.
        child.env("HTTPS_PROXY", format!("http://{address}")).env("NO_PROXY", "localhost,127.0.0.1,.svc");
        if named {
            child.env(NAMED, "1").env("GIT_SSL_CAINFO", directory.path().join("trusted.crt"));
        }
        let output = child.output().expect("child");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success() && said.contains("1 passed"), "{named}: {said}");
    }
    let asked = asked.lock().expect("lock");
    assert!(!asked.is_empty(), "the proxy was asked");
    assert!(asked.iter().all(|line| line == "CONNECT git.private.test:443 HTTP/1.1"), "{asked:?}");
    let branches = git(&repository, &["branch", "--list", "agent/*", "--format=%(refname:short)"]);
    assert_eq!(branches.trim(), git_support::BRANCH, "pushed the same way");
}
