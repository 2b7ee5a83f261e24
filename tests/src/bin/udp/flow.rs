//! A flow as a game has it: a number every sixtieth of a second, each of which is to come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// What a game says each time, about.
const BYTES: usize = 120;

/// Time that the last answers get.
const LINGER: Duration = Duration::from_secs(3);

pub(crate) fn run(place: &str, rate: u64, time: Duration) -> anyhow::Result<Value> {
    let to = super::resolve(place)?;
    let socket = Arc::new(super::bind(to, 0)?);
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (socket, done) = (socket.clone(), done.clone());
        std::thread::spawn(move || read(&socket, &done))
    };
    super::print(&json!({ "sending_to": to, "from": socket.local_addr()? }));
    let (began, pause) = (Instant::now(), Duration::from_secs(1) / u32::try_from(rate.max(1))?);
    let (mut sent, mut refused) = (0_u64, 0_u64);
    let mut next = began;
    while began.elapsed() < time {
        let mut message = super::pattern(BYTES, sent);
        message[..8].copy_from_slice(&sent.to_le_bytes());
        // Errors for earlier ones are told here too.
        match socket.send(&message) {
            Ok(_) => sent += 1,
            Err(_) => refused += 1,
        }
        // No burst after a pause: a game goes on from where it is.
        next = (next + pause).max(Instant::now());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    std::thread::sleep(LINGER);
    done.store(true, Ordering::Release);
    let seen = reader.join().expect("the reader does not panic");
    let numbers: std::collections::BTreeSet<u64> = seen.numbers.iter().copied().collect();
    let lost: Vec<u64> = (0..sent).filter(|number| !numbers.contains(number)).collect();
    Ok(json!({
        "sent": sent,
        "answered": numbers.len(),
        "lost": lost.len(),
        "lost_numbers": lost,
        "repeated": seen.numbers.len() - numbers.len(),
        "reordered": seen.numbers.windows(2).filter(|pair| pair[1] < pair[0]).count(),
        "damaged": seen.damaged,
        "refused": refused,
        "longest_gap_ms": super::ms(seen.longest_gap),
    }))
}

#[derive(Default)]
struct Seen {
    numbers: Vec<u64>,
    damaged: u64,
    longest_gap: Duration,
}

fn read(socket: &std::net::UdpSocket, done: &AtomicBool) -> Seen {
    let (mut seen, mut buffer, mut last) = (Seen::default(), [0; 2 * BYTES], Instant::now());
    while !done.load(Ordering::Acquire) {
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        seen.longest_gap = seen.longest_gap.max(last.elapsed());
        last = Instant::now();
        let number = buffer.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)).unwrap_or_default();
        let whole = length == BYTES && buffer[8..BYTES] == super::pattern(BYTES, number)[8..];
        if whole { seen.numbers.push(number) } else { seen.damaged += 1 }
    }
    seen
}
