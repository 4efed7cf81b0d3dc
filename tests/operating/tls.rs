//! TLS with a private certificate authority, on a server of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use opentiger::postgres::{DatabaseConfig, Pool, connect, schema_version};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::postgres::eventually;

/// A Postgres on loopback, removed with the value.
struct Server {
    directory: PathBuf,
    /// `user:password`
    user: String,
    port: String,
    admin: Pool,
}

fn script(verb: &str, directory: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/postgres");
    let output = Command::new(script).arg(verb).arg(directory).output().expect("the script runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

impl Server {
    fn start() -> Self {
        let directory = std::env::temp_dir().join(format!("opentiger-tls-{}", std::process::id()));
        let url = script("up", &directory);
        let (user, address) =
            url.trim_start_matches("postgres://").split_once('@').expect("user and address");
        let port = address.split([':', '/']).nth(1).expect("port").to_owned();
        let admin = connect(&DatabaseConfig::new(format!("{url}?sslmode=disable"), "test")).expect("pool");
        Self { directory, user: user.to_owned(), port, admin }
    }

    async fn execute(&self, sql: &str) {
        self.admin.get().await.expect("connection").batch_execute(sql).await.expect("statement");
    }

    /// Turns TLS on with this certificate. The server writes the files itself: they must be its own.
    async fn offer(&self, certificate: &str, key: &str) {
        for (name, pem) in [("server.crt", certificate), ("server.key", key)] {
            let lines: Vec<String> = pem.lines().map(|l| format!("('{l}')")).collect();
            self.execute(&format!("COPY (VALUES {}) TO PROGRAM 'umask 077; cat >{name}'", lines.join(", ")))
                .await;
        }
        self.switch("on").await;
    }

    async fn switch(&self, state: &str) {
        self.execute(&format!("ALTER SYSTEM SET ssl = {state}")).await;
        self.execute("SELECT pg_reload_conf()").await;
        eventually("the setting is in force", async || {
            // A connection sees a reload at its next statement.
            let client = self.admin.get().await.expect("connection");
            client.query_one("SHOW ssl", &[]).await.expect("shown").get::<_, String>(0) == state
        })
        .await;
    }

    fn url(&self, host: &str, query: &str) -> String {
        format!("postgres://{}@{host}:{}/opentiger?{query}", self.user, self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        script("down", &self.directory);
    }
}

/// How a program fares with this URL: whether TLS is in use, or the sentence it says.
async fn attempt(url: String, ca_file: Option<&Path>) -> Result<bool, String> {
    let config = DatabaseConfig { ca_file: ca_file.map(Into::into), ..DatabaseConfig::new(url, "test") };
    let pool = connect(&config).map_err(|e| e.to_string())?;
    schema_version(&pool).await.map_err(|e| e.to_string())?;
    let client = pool.get().await.map_err(|e| e.to_string())?;
    let row = client.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await;
    Ok(row.expect("a row").get(0))
}

/// A certificate authority, and a certificate with its key that it has signed for `host`.
fn certificates(host: &str) -> (String, String, String) {
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).expect("signed").pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().expect("key");
    let params = CertificateParams::new(vec![host.to_owned()]).expect("parameters");
    let certificate = params.signed_by(&key, &issuer).expect("signed");
    (authority, certificate.pem(), key.serialize_pem())
}

#[tokio::test]
async fn a_private_authority_opens_and_anything_else_is_refused_in_one_sentence() {
    let server = Server::start();
    let folder = tempfile::tempdir().expect("folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let (authority, certificate, key) = certificates("localhost");
    let ca = file("ca.pem", &authority);
    let other = file("other.pem", &certificates("localhost").0);
    let named = |host: &str, file: &Path| {
        server.url(host, &format!("sslmode=verify-full&sslrootcert={}", file.display()))
    };

    // Without TLS at the server.
    let refused = attempt(named("localhost", &ca), None).await;
    assert_eq!(
        refused.expect_err("no TLS"),
        "failed to connect to the database: the server does not offer TLS, which sslmode of the database URL asks for"
    );
    assert_eq!(attempt(server.url("localhost", "sslmode=prefer"), Some(&ca)).await, Ok(false));

    server.offer(&certificate, &key).await;
    assert_eq!(attempt(named("localhost", &ca), None).await, Ok(true), "sslrootcert");
    for mode in ["prefer", "require", "verify-ca", "verify-full"] {
        let url = server.url("localhost", &format!("sslmode={mode}"));
        assert_eq!(attempt(url, Some(&ca)).await, Ok(true), "{mode} with --database-ca-file");
    }
    assert_eq!(attempt(server.url("localhost", "sslmode=disable"), None).await, Ok(false));

    for (what, file) in [("of another authority", Some(&other)), ("of the system's authorities", None)] {
        // `require` does not accept just anybody either.
        for mode in ["require", "verify-full"] {
            let url = server.url("localhost", &format!("sslmode={mode}"));
            let refused = attempt(url, file.map(PathBuf::as_path)).await;
            assert_eq!(
                refused.expect_err(what),
                "failed to connect to the database: the certificate of the server is not signed by a certificate authority that is trusted: name its own with --database-ca-file or sslrootcert"
            );
        }
    }
    let refused = attempt(named("127.0.0.1", &ca), None).await;
    assert_eq!(
        refused.expect_err("another host name"),
        "failed to connect to the database: the certificate of the server is not for the host name in the database URL"
    );
    let (user, _) = server.user.split_once(':').expect("password");
    let wrong = named("localhost", &ca).replace(&server.user, &format!("{user}:wrong-canary"));
    let refused = attempt(wrong, None).await.expect_err("wrong password");
    assert!(refused.contains("password authentication failed") && !refused.contains("canary"), "{refused}");
    let none = attempt(named("localhost", &folder.path().join("none.pem")), None).await;
    assert!(none.expect_err("no file").contains("certificate authority file"), "named");
}
