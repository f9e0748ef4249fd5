use super::*;

fn space(capacity: Limit, min_free: Limit) -> (tempfile::TempDir, Arc<Space>) {
    let dir = tempfile::tempdir().unwrap();
    let directories = vec![dir.path().join("a"), dir.path().join("b")];
    (dir, Space::open(SpaceSettings { directories, capacity, min_free }).unwrap())
}

#[test]
fn claims_count_until_they_are_dropped() {
    let (_dir, space) = space(Limit::Bytes(1000), Limit::Bytes(0));
    assert_eq!((space.capacity(), space.limit()), (1000, 1000));
    let kept = space.claim(300, false).unwrap();
    let passing = space.claim(100, true).unwrap();
    assert_eq!((space.used(), space.staying(), space.passing()), (400, 300, 100));
    assert_ne!(kept.directory, passing.directory, "directories of one file system fill evenly");
    kept.set(250);
    kept.doom();
    assert_eq!((space.used(), space.staying()), (350, 0));
    kept.doom_done();
    assert_eq!(space.staying(), 250, "a reader still maps it");
    drop(kept);
    drop(passing);
    assert_eq!((space.used(), space.staying(), space.passing()), (0, 0, 0));
}

#[test]
fn a_short_disk_lowers_the_limit_and_frees_raise_it() {
    let (_dir, space) = space(Limit::Share(0.5), Limit::Share(1.0));
    assert_eq!(space.limit(), 0, "everything must be left free");
    assert!(space.capacity() > 0);
    let (_dir, space) = self::space(Limit::Bytes(1000), Limit::Bytes(0));
    let _claim = space.claim(10, false).unwrap();
    space.exhausted();
    assert_eq!(space.limit(), 10);
    assert_eq!(space.measure(), 1000);
}

#[test]
fn a_directory_belongs_to_one_node() {
    let dir = tempfile::tempdir().unwrap();
    let settings = SpaceSettings {
        directories: vec![dir.path().to_owned()],
        capacity: Limit::Bytes(1),
        min_free: Limit::Bytes(0),
    };
    let first = Space::open(settings.clone()).unwrap();
    let second = Space::open(settings.clone()).err().unwrap();
    assert!(second.message().contains("another node"), "{second}");
    drop(first);
    Space::open(settings).unwrap();
}
