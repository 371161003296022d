use super::*;

const NEW: Release = Release::new(6, 18, 0);

#[test]
fn every_ability_has_exactly_one_name() {
    assert_eq!(KNOWN.len(), Cap::all().iter().count());
    for cap in Cap::all().iter() {
        let name = cap.name().expect("every ability is in the table");
        assert_eq!(Cap::named(name), Some(cap));
    }
    assert_eq!(Cap::all().name(), None);
}

#[test]
fn a_mask_takes_away_and_says_so() {
    let mask = "-recv_multishot".parse().expect("a known name");
    let caps = Caps::new(Cap::all(), mask, NEW);
    assert!(!caps.has(Cap::RECV_MULTISHOT));
    assert!(caps.has(Cap::SEND_ZC));
    assert!(caps.found().contains(Cap::RECV_MULTISHOT));
    let table = caps.to_string();
    let line = table
        .lines()
        .find(|line| line.starts_with("recv_multishot"))
        .expect("its line");
    assert!(
        line.contains("masked") && line.contains("a submission for every receive"),
        "{line}"
    );
}

#[test]
fn a_broken_release_is_distrusted_unless_told_otherwise() {
    for (release, bad) in [
        (Release::new(6, 1, 0), true),
        (Release::new(6, 6, 16), true),
        (Release::new(6, 6, 17), false),
        (Release::new(6, 7, 3), true),
        (Release::new(6, 8, 0), false),
    ] {
        let caps = Caps::new(Cap::all(), CapsMask::default(), release);
        assert_eq!(!caps.has(Cap::RECV_MULTISHOT), bad, "{release}");
        let trusting = "+recv_multishot".parse().expect("a known name");
        assert!(Caps::new(Cap::all(), trusting, release).has(Cap::RECV_MULTISHOT));
    }
}

#[test]
fn an_unknown_name_is_an_error_that_lists_the_known_ones() {
    for bad in ["-warp_drive", "recv_multishot", "-", "~send_zc"] {
        let err = bad.parse::<CapsMask>().expect_err(bad).to_string();
        assert!(
            err.contains(bad) && err.contains("send_vectorized"),
            "{err}"
        );
    }
    assert_eq!(" , ".parse(), Ok(CapsMask::default()));
}
