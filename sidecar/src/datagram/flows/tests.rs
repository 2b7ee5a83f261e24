use super::*;

fn key(number: usize) -> FlowKey {
    let remote = SocketAddr::from(([10, 88, (number >> 24) as u8, (number >> 16) as u8], number as u16));
    FlowKey { local: "10.88.0.1:53".parse().unwrap(), remote }
}

fn second(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn a_flow_counts_both_ways_and_knows_who_began() {
    let (mut flows, now) = (Flows::default(), Instant::now());
    flows.received(now, key(1), 100);
    flows.sent(now + second(1), key(1), 7);
    flows.sent(now + second(2), key(2), 0);
    let all = flows.all(now + second(3));
    let told: Vec<_> = all.iter().map(|(key, flow, quiet)| (*key, flow.opened_here, *quiet)).collect();
    assert_eq!(told, [(key(1), false, second(2)), (key(2), true, second(1))]);
    let flow = all[0].1;
    assert_eq!((flow.bytes_in, flow.bytes_out, flow.datagrams_in, flow.datagrams_out), (100, 7, 1, 1));
}

#[test]
fn only_what_the_program_sent_may_be_answered_and_not_for_ever() {
    let (mut flows, now) = (Flows::default(), Instant::now());
    flows.received(now, key(1), 1);
    assert!(!flows.asked(now, &key(1)));
    flows.sent(now, key(1), 1);
    assert!(flows.asked(now, &key(1)));
    assert!(!flows.asked(now, &key(2)));
    // Either direction keeps it.
    flows.received(now + FLOW_IDLE - second(1), key(1), 1);
    assert!(flows.asked(now + FLOW_IDLE + second(1), &key(1)));
    let over = now + FLOW_IDLE * 2;
    assert!(!flows.asked(over, &key(1)));
    // What comes then begins another flow.
    flows.received(over, key(1), 1);
    assert!(!flows.asked(over, &key(1)));
    assert_eq!(flows.all(over).len(), 1);
}

#[test]
fn quiet_flows_are_forgotten_and_busy_ones_kept() {
    let (mut flows, now) = (Flows::default(), Instant::now());
    for number in 0..100 {
        flows.sent(now, key(number), 1);
    }
    flows.sent(now + second(60), key(7), 1);
    flows.sweep(now + FLOW_IDLE - second(1));
    assert_eq!(flows.all(now).len(), 100);
    flows.sweep(now + FLOW_IDLE);
    assert_eq!(flows.all(now + FLOW_IDLE).iter().map(|(key, ..)| *key).collect::<Vec<_>>(), [key(7)]);
    flows.sweep(now + FLOW_IDLE + second(60));
    assert_eq!((flows.known.len(), flows.round.len()), (0, 0));
}

#[test]
fn a_flood_makes_room_among_the_quiet_and_the_table_does_not_grow() {
    let (mut flows, now) = (Flows::default(), Instant::now());
    let busy = key(usize::MAX >> 8);
    for number in 0..3 * FLOWS_MAX {
        let at = now + Duration::from_micros(number as u64);
        flows.sent(at, key(number), 1);
        if number % 16 == 0 {
            flows.sent(at, busy, 1);
        }
        assert!(flows.known.len() <= FLOWS_MAX && flows.round.len() == flows.known.len());
    }
    let end = now + Duration::from_micros(3 * FLOWS_MAX as u64);
    assert!(flows.asked(end, &busy), "a flow in use was forgotten");
    assert!(!flows.asked(end, &key(0)));
    assert!(flows.asked(end, &key(3 * FLOWS_MAX - 1)));
}
