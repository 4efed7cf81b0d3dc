//! Too much of everything: large bodies and heads, and thousands of connections that send slowly.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::postgres::Database;
use crate::process::{Api, read};
use crate::security::{BARE, KEYS, READ, check_log};

#[tokio::test]
async fn large_bodies_and_heads_are_refused_early_and_cost_no_memory() {
    let database = Database::migrated().await;
    let api = Api::start(&database.url, KEYS, "x", &[]).await;
    assert_eq!(api.ask("GET", "/tasks", READ).await.status, 200);
    let before = api.peak_kib();
    let hundred = 100 * 1024 * 1024;
    for (path, key, framing, expected) in [
        ("/tasks", BARE, format!("content-length: {hundred}\r\n"), 413),
        ("/tasks", BARE, "transfer-encoding: chunked\r\n".to_owned(), 413),
        ("/tasks", "", format!("content-length: {hundred}\r\n"), 401),
        ("/webhook/github", "", format!("content-length: {hundred}\r\n"), 401),
    ] {
        let mut stream = api.connect().await;
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\n{key}{framing}\r\n");
        stream.write_all(head.as_bytes()).await.expect("written");
        let chunked = framing.contains("chunked");
        let block = vec![b'x'; 64 * 1024];
        let mut sent = 0;
        // The client sends until nobody takes it any more; the answer is there long before.
        let (mut reading, mut writing) = stream.into_split();
        let writer = tokio::spawn(async move {
            while sent < hundred {
                let size = format!("{:x}\r\n", block.len());
                let result = match chunked {
                    true => writing.write_all(&[size.as_bytes(), &block, b"\r\n"].concat()).await,
                    false => writing.write_all(&block).await,
                };
                if result.is_err() {
                    break;
                }
                sent += block.len();
            }
            sent
        });
        let answer = read_half(&mut reading).await;
        assert!(answer.is_empty() || answer.starts_with(&format!("HTTP/1.1 {expected}")), "{answer}");
        drop(reading);
        let sent = writer.await.expect("joined");
        assert!(sent < hundred / 10, "{path}: {sent} bytes were taken");
    }
    // Whoever asks first is told without sending anything.
    let head = format!(
        "POST /tasks HTTP/1.1\r\nhost: x\r\ncontent-length: {hundred}\r\nexpect: 100-continue\r\n\r\n"
    );
    assert_eq!(api.raw(head.as_bytes()).await.status, 401);

    let bomb = |count: usize, size: usize| {
        (0..count).map(|n| format!("x-{n}: {}\r\n", "y".repeat(size))).collect::<String>()
    };
    let large = api.ask("GET", "/tasks", &format!("{READ}{}", bomb(20, 1000))).await;
    assert_eq!(
        (large.status, large.json()["code"].as_str()),
        (431, Some("headers_too_large")),
        "{}",
        large.text
    );
    for head in [bomb(500, 1), bomb(1, 40_000), bomb(90, 10_000)] {
        let answer = api.ask("GET", "/tasks", &format!("{READ}{head}")).await;
        assert!([0, 431].contains(&answer.status), "{}", answer.text);
    }
    let grown = api.peak_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB more than before");
    assert_eq!(api.ask("GET", "/tasks", READ).await.status, 200);
    check_log(&api.log());
}

async fn read_half(stream: &mut tokio::net::tcp::OwnedReadHalf) -> String {
    use tokio::io::AsyncReadExt;
    let mut buffer = vec![0; 4096];
    let n = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut buffer)).await.expect("in time");
    String::from_utf8_lossy(&buffer[..n.unwrap_or(0)]).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_connections_that_send_slowly_do_not_stop_a_good_client() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raised");
    let count = usize::try_from(hard.saturating_sub(1000)).expect("small").min(10_000);
    assert!(count >= 2000, "the limit of open files is {hard}: this machine cannot show it");

    let database = Database::migrated().await;
    let api = Api::start(&database.url, KEYS, "x", &["--rate-limit-per-minute=0"]).await;
    // One that is served all along: a connection that carries requests is not given up.
    let mut good = api.connect().await;
    let mut slow: Vec<TcpStream> = Vec::new();
    let mut longest = Duration::ZERO;
    let request = format!("GET /tasks?limit=1 HTTP/1.1\r\nhost: x\r\n{READ}\r\n");
    for n in 0..count {
        let mut stream = api.connect().await;
        stream.write_all(b"GET /tasks HTTP/1.1\r\nhost: x\r\nx-slow: ").await.expect("sent");
        slow.push(stream);
        if n % 100 == 0 {
            let began = Instant::now();
            good.write_all(request.as_bytes()).await.expect("sent");
            assert_eq!(read(&mut good).await.status, 200, "after {n} slow connections");
            let fresh = api.ask("GET", "/tasks?limit=1", READ).await;
            assert_eq!(fresh.status, 200, "after {n} slow connections: {}", fresh.text);
            longest = longest.max(began.elapsed());
        }
    }
    // All of them send another byte, as slowly as they may; many are gone by now.
    for stream in &mut slow {
        drop(stream.write_all(b"y").await);
    }
    let began = Instant::now();
    assert_eq!(api.ask("GET", "/tasks?limit=1", READ).await.status, 200);
    longest = longest.max(began.elapsed());
    let peak = api.peak_kib();
    println!("{count} slow connections: a good client waited {longest:?} at most, peak memory {peak} KiB");
    assert!(longest < Duration::from_secs(2), "{longest:?}");
    assert!(peak < 96 * 1024, "{peak} KiB");
}
