use super::*;

fn at(monotonic_ms: u64, boot_ms: u64) -> Clocks {
    let [monotonic, boot] = [monotonic_ms, boot_ms].map(Duration::from_millis);
    Clocks { monotonic, boot }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn sleep_and_standing_still_are_told_from_a_busy_machine() {
    let before = at(1_000, 1_000);
    // On time, and late as on a busy machine.
    assert_eq!(standstill(&before, &at(1_250, 1_250)), None);
    assert_eq!(standstill(&before, &at(2_500, 2_500)), None);
    // Asleep for ten minutes, while the one clock stood still.
    assert_eq!(standstill(&before, &at(1_250, 601_250)), Some(Duration::from_secs(600)));
    // Stopped for ten seconds, while both went on.
    assert_eq!(standstill(&before, &at(11_250, 11_250)), Some(Duration::from_secs(10)));
    // Asleep for so short that nobody noticed.
    assert_eq!(standstill(&before, &at(1_250, 1_750)), None);
}

#[test]
fn links_are_taken_where_the_settings_say_while_that_address_is_there() {
    let network = |addresses: &[&str]| Network {
        addresses: addresses.iter().map(|text| address(text)).collect(),
        ..Network::default()
    };
    let (told, other) = (address("192.0.2.10"), address("192.0.2.110"));
    let both = network(&["127.0.0.1", "192.0.2.10", "192.0.2.110"]);
    assert_eq!(listen_at(told, &both, Some(other)), told);
    let gone = network(&["127.0.0.1", "192.0.2.110"]);
    assert_eq!(listen_at(told, &gone, Some(other)), other);
    // Until there is another one there is nothing better.
    assert_eq!(listen_at(told, &network(&["127.0.0.1"]), None), told);
    assert_eq!(listen_at(told, &gone, Some(address("2001:db8::1"))), told);
    for everywhere in ["0.0.0.0", "::"].map(address) {
        assert_eq!(listen_at(everywhere, &gone, Some(other)), everywhere);
    }
}
