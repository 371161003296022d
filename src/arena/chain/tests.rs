use super::*;
use std::sync::Arc;

#[test]
fn pushes_pops_and_moves_in_order() {
    let mut chain: Chain<u32> = (1..=3).collect();
    chain.push_front(0);
    let mut other: Chain<u32> = Chain::new();
    assert!(chain.move_front_to(&mut other));
    assert_eq!(other.back(), Some(&0));
    other.append(&mut chain);
    assert!(chain.is_empty() && chain.back().is_none() && chain.front_mut().is_none());
    chain.append(&mut other);
    chain.append(&mut other);
    for value in &mut chain {
        *value += 10;
    }
    *chain.back_mut().expect("four values") = 99;
    assert!(chain.single_mut().is_none() && other.single_mut().is_none());
    other.push_back(5);
    assert_eq!(other.single_mut(), Some(&mut 5));
    let link = other.unlink().expect("one value");
    assert!(other.unlink().is_none());
    other.link_back(link);
    let mut link = other.unlink().expect("one value");
    *link.get_mut() += 1;
    other.link_front(link);
    assert_eq!(other.back(), Some(&6));
    assert!(other.drop_front() && !other.drop_front());
    assert_eq!(chain.iter().copied().collect::<Vec<_>>(), [10, 11, 12, 99]);
    assert_eq!(chain.pop_front(), Some(10));
    assert!(!other.move_front_to(&mut chain));
    assert_eq!(format!("{chain:?}"), "[11, 12, 99]");
}

#[test]
fn drops_every_value_once() {
    let ledger = Arc::new(());
    let mut chain: Chain<Arc<()>> = std::iter::repeat_n(ledger.clone(), 10).collect();
    chain.pop_front();
    assert_eq!(Arc::strong_count(&ledger), 10);
    drop(chain);
    assert_eq!(Arc::strong_count(&ledger), 1);
}

#[test]
fn a_destructor_that_panics_does_not_keep_the_rest() {
    struct Value(#[expect(dead_code, reason = "counted")] Arc<()>, bool);
    impl Drop for Value {
        fn drop(&mut self) {
            assert!(!self.1, "in a destructor");
        }
    }
    let ledger = Arc::new(());
    for at in 0..4 {
        let values = (0..4).map(|n| Value(ledger.clone(), n == at));
        let chain: Chain<Value> = values.collect();
        let dropping = std::panic::AssertUnwindSafe(|| drop(chain));
        assert!(std::panic::catch_unwind(dropping).is_err());
        assert_eq!(Arc::strong_count(&ledger), 1, "value {at}");
    }
}

#[test]
fn crosses_threads() {
    let chain: Chain<String> = (0..100).map(|n| n.to_string()).collect();
    let back = std::thread::spawn(move || chain).join().expect("no panic");
    assert_eq!(back.iter().count(), 100);
}
