use super::*;
use proptest::prelude::*;

type P = Policy<u32, &'static str>;

/// Reads `key`, filling it where it is missing and may enter. Answers whether it hit.
fn read(policy: &mut P, used: &mut u64, limit: u64, owner: &Owner<&'static str>, key: u32, bytes: u64) -> bool {
    if policy.owner(&key).is_some() {
        policy.touch(&key);
        return true;
    }
    if let Some(evicted) = policy.admit(owner, bytes, *used, limit) {
        *used -= evicted.len() as u64 * bytes;
        policy.add(key, owner.clone(), bytes);
        *used += bytes;
    }
    false
}

fn shuffled(keys: std::ops::Range<u32>, seed: u64) -> Vec<u32> {
    let mut keys: Vec<u32> = keys.collect();
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for i in (1..keys.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        keys.swap(i, (state % (i as u64 + 1)) as usize);
    }
    keys
}

#[test]
fn shuffled_epochs_over_twice_the_cache_hit_half_the_time() {
    let mut policy = P::new();
    let (mut used, owner) = (0, Owner::Held("a"));
    policy.hold("a", 1000);
    for epoch in 0..5 {
        let hits = shuffled(0..100, epoch + 1)
            .into_iter()
            .filter(|&key| read(&mut policy, &mut used, 500, &owner, key, 10))
            .count();
        assert!(epoch == 0 || hits == 50, "epoch {epoch}: {hits}");
    }
}

/// Reads epochs in shuffled orders, warming the start of each next one ahead. Answers the hits of each.
fn epochs_warmed_ahead(policy: &mut P, limit: u64, count: u64) -> Vec<usize> {
    let (mut used, owner) = (0, Owner::Held("a"));
    policy.hold("a", 1000);
    policy.warm_ahead(true);
    (0..count)
        .map(|epoch| {
            policy.begin_epoch();
            let next = shuffled(0..100, epoch + 2);
            let mut hits = 0;
            for key in shuffled(0..100, epoch + 1) {
                hits += usize::from(read(policy, &mut used, limit, &owner, key, 10));
                // As soon as there is room: the first of the next epoch that is missing.
                let missing = next.iter().find(|key| policy.owner(key).is_none());
                if let Some(&key) = missing
                    && let Some(evicted) = policy.admit(&Owner::Ahead, 10, used, limit)
                {
                    used -= evicted.len() as u64 * 10;
                    policy.add(key, Owner::Ahead, 10);
                    used += 10;
                }
                assert!(used <= limit && policy.ring_bytes() <= policy.ring_limit(limit));
            }
            hits
        })
        .collect()
}

#[test]
fn what_is_warmed_ahead_is_hit_and_costs_jobs_its_part_only() {
    let hits = epochs_warmed_ahead(&mut P::new(), 500, 6);
    // 47 or 48 held, and more than the two or three of the ring at a time, as it is refilled behind the reader.
    assert!(hits[1..].iter().all(|&hits| hits >= 50), "{hits:?}");
}

#[test]
fn a_full_cache_gives_up_the_part_and_gets_it_back() {
    let mut policy = P::new();
    let mut used = 0;
    policy.hold("a", 1000);
    for key in 0..50 {
        read(&mut policy, &mut used, 500, &Owner::Held("a"), key, 10);
    }
    assert_eq!(policy.admit(&Owner::Ahead, 10, used, 500), None, "nobody warms ahead");
    policy.warm_ahead(true);
    let evicted = policy.admit(&Owner::Ahead, 10, used, 500).unwrap();
    assert_eq!(evicted, [49]);
    policy.add(100, Owner::Ahead, 10);
    for key in 101.. {
        let Some(evicted) = policy.admit(&Owner::Ahead, 10, used, 500) else { break };
        assert_eq!(evicted.len(), 1);
        policy.add(key, Owner::Ahead, 10);
    }
    assert_eq!(policy.ring_bytes(), 20, "one in twenty, in whole row groups");
    assert_eq!(policy.admit(&Owner::Ahead, 10, used, 500), None, "what waits is not pushed out");
    policy.touch(&100);
    assert_eq!(policy.admit(&Owner::Ahead, 10, used, 500), None, "its epoch has not begun");
    policy.begin_epoch();
    policy.touch(&100);
    assert_eq!(policy.admit(&Owner::Ahead, 10, used, 500), Some(vec![100]));
    policy.warm_ahead(false);
    assert_eq!((policy.ring_bytes(), policy.evictable_bytes()), (0, 10));
    assert_eq!(policy.admit(&Owner::Held("a"), 10, 490, 500), Some(vec![]));
}

#[test]
fn a_newcomer_gets_its_share_and_no_more() {
    let mut policy = P::new();
    let mut used = 0;
    policy.hold("a", 1000);
    shuffled(0..100, 1).into_iter().for_each(|key| {
        read(&mut policy, &mut used, 500, &Owner::Held("a"), key, 10);
    });
    assert_eq!(policy.set_bytes(&"a"), 500);
    policy.hold("b", 1000);
    for epoch in 0..3 {
        for key in shuffled(1000..1100, epoch + 1) {
            read(&mut policy, &mut used, 500, &Owner::Held("b"), key, 10);
        }
        for key in shuffled(0..100, epoch + 7) {
            read(&mut policy, &mut used, 500, &Owner::Held("a"), key, 10);
        }
        assert_eq!((policy.set_bytes(&"a"), policy.set_bytes(&"b")), (250, 250));
    }
    // A small third one takes what it needs from both.
    policy.hold("c", 60);
    (2000..2006).for_each(|key| {
        read(&mut policy, &mut used, 500, &Owner::Held("c"), key, 10);
    });
    assert_eq!((policy.set_bytes(&"c"), policy.set_bytes(&"a") + policy.set_bytes(&"b")), (60, 440));
    // Its end makes its part evictable, and the others grow back into it.
    policy.release(&"c");
    assert_eq!(policy.evictable_bytes(), 60);
    shuffled(0..100, 99).into_iter().for_each(|key| {
        read(&mut policy, &mut used, 500, &Owner::Held("a"), key, 10);
    });
    assert_eq!(policy.evictable_bytes(), 0);
}

#[test]
fn ad_hoc_reads_take_only_from_the_pool_and_a_scan_does_not_flush_it() {
    let mut policy = P::new();
    let mut used = 0;
    policy.hold("a", 300);
    (0..30).for_each(|key| {
        read(&mut policy, &mut used, 500, &Owner::Held("a"), key, 10);
    });
    for _ in 0..3 {
        (100..110).for_each(|key| {
            read(&mut policy, &mut used, 500, &Owner::Nobody, key, 10);
        });
    }
    (200..300).for_each(|key| {
        read(&mut policy, &mut used, 500, &Owner::Nobody, key, 10);
    });
    assert_eq!(policy.set_bytes(&"a"), 300, "held data is not touched");
    let kept = (100..110).filter(|key| policy.owner(key).is_some()).count();
    assert!(kept >= 9, "{kept} of the ten often read survive a scan");
}

#[test]
fn shrinking_takes_the_least_valuable_first() {
    let mut policy = P::new();
    policy.hold("a", 100);
    policy.add(1, Owner::Pinned, 10);
    policy.add(2, Owner::Held("a"), 10);
    policy.add(3, Owner::Nobody, 10);
    assert_eq!(policy.shrink(1), [3]);
    assert_eq!(policy.shrink(5), [2]);
    assert_eq!(policy.shrink(1), [1]);
    assert!(policy.shrink(1).is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Read(u8, u8),
    Hold(u8),
    Release(u8),
    Remove(u8),
    Pin(u8),
    WarmAhead(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0u8..40, 0u8..5).prop_map(|(k, o)| Step::Read(k, o)),
        1 => (0u8..3).prop_map(Step::Hold),
        1 => (0u8..3).prop_map(Step::Release),
        1 => (0u8..40).prop_map(Step::Remove),
        1 => (0u8..40).prop_map(Step::Pin),
        1 => any::<bool>().prop_map(Step::WarmAhead),
    ];
    proptest::collection::vec(step, 0..300)
}

proptest! {
    /// Against a model that knows only which keys are in, with what bytes: sums agree, the limit holds, and nothing that
    /// is pinned, or held by a set within its share (but for one row group), is evicted to admit something.
    #[test]
    fn the_books_balance(steps in steps()) {
        const NAMES: [&str; 3] = ["a", "b", "c"];
        let limit = 200u64;
        let mut policy = P::new();
        let mut model: HashMap<u32, u64> = HashMap::new();
        for step in steps {
            match step {
                Step::Hold(s) => policy.hold(NAMES[s as usize], 300),
                Step::Release(s) => policy.release(&NAMES[s as usize]),
                Step::Remove(k) => { policy.remove(&u32::from(k)); model.remove(&u32::from(k)); }
                Step::WarmAhead(active) => policy.warm_ahead(active),
                Step::Pin(k) => policy.change_owner(&u32::from(k), Owner::Pinned),
                Step::Read(k, o) => {
                    let (key, bytes) = (u32::from(k), u64::from(k % 7) + 10);
                    let owner = if o == 4 { Owner::Ahead } else { NAMES.get(o as usize).filter(|n| policy.is_held(n)).map_or(Owner::Nobody, |n| Owner::Held(*n)) };
                    if policy.owner(&key).is_some() { policy.touch(&key); continue; }
                    let used = model.values().sum();
                    let before: HashMap<u32, Owner<&str>> =
                        model.keys().map(|k| (*k, policy.owner(k).unwrap().clone())).collect();
                    let shares = policy.shares(limit);
                    let Some(evicted) = policy.admit(&owner, bytes, used, limit) else { continue };
                    for gone in evicted {
                        prop_assert!(model.remove(&gone).is_some());
                        match &before[&gone] {
                            Owner::Ahead => prop_assert!(owner == Owner::Ahead, "took what waits for the next epoch"),
                            Owner::Held(_) if owner == Owner::Ahead => {}
                            Owner::Pinned => prop_assert!(false, "evicted a pinned row group"),
                            Owner::Held(set) => prop_assert!(policy.set_bytes(set) + 16 >= shares[set]),
                            Owner::Nobody => {}
                        }
                    }
                    policy.add(key, owner, bytes);
                    model.insert(key, bytes);
                    prop_assert!(model.values().sum::<u64>() <= limit);
                }
            }
            let sum = policy.pinned_bytes() + policy.held_bytes() + policy.evictable_bytes() + policy.ring_bytes();
            prop_assert_eq!(sum, model.values().sum::<u64>());
            prop_assert!(model.keys().all(|k| policy.owner(k).is_some()));
        }
    }
}
