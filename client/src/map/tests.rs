//! Mapped reads against a fake node, which also streams.

use super::*;
use crate::testing::maps::{MapDoor, MapFault, Storage};
use crate::testing::types::{random_batch, schema_of_every_type};
use crate::testing::{Fake, URL, list, options, within};
use crate::{Client, Options, Plan, PlanRequest, Result};
use arrow_array::{Array, Int64Array, RecordBatchOptions};
use arrow_ipc::CompressionType;
use arrow_schema::{DataType, Field, Schema};
use futures::{StreamExt, TryStreamExt};
use std::collections::HashSet;

async fn connect(fake: &Fake, maps: Maps) -> (Client, crate::testing::Running) {
    let node = fake.serve().await;
    let options = Options { maps, ..options() };
    (Client::connect_with(&list(&[&node.address]), options).await.unwrap(), node)
}

async fn plan(client: &Client) -> Plan {
    client.plan(PlanRequest { url: URL.into(), ..Default::default() }).await.unwrap()
}

async fn read_all(client: &Client) -> Result<Vec<RecordBatch>> {
    let mut all = Vec::new();
    for ticket in &within(plan(client)).await.tickets {
        all.extend(within(client.read(ticket).try_collect::<Vec<_>>()).await?);
    }
    Ok(all)
}

/// Positions behind which Flight was asked to start.
fn streamed(fake: &Fake) -> Vec<Option<(u32, u32)>> {
    std::mem::take(&mut fake.state().gets).into_iter().map(|(_, after)| after.map(|at| (at.piece, at.batch))).collect()
}

async fn all_closed(door: &mut MapDoor) {
    within(door.open.wait_for(|open| *open == 0)).await.unwrap();
}

#[tokio::test]
async fn mapped_and_streamed_batches_are_equal_for_every_type_and_storage() {
    let schema = schema_of_every_type();
    let batch = |seed: u64| random_batch(&schema, [50, 1, 33, 64, 0, 7][seed as usize % 6], seed);
    let tickets = (0..3).map(|ticket| (0..6).map(|n| batch(ticket * 7 + n)).collect()).collect();
    let fake = Fake::of(schema.clone(), tickets);
    let mut door = fake.open_door();
    let expected: Vec<_> = fake.batches().into_iter().filter(|batch| batch.num_rows() > 0).collect();
    let storages = [
        Storage::default(),
        Storage { two_files: true, cut: true, ..Storage::default() },
        Storage { codec: Some(CompressionType::LZ4_FRAME), cut: true, ..Storage::default() },
        Storage { codec: Some(CompressionType::ZSTD), two_files: true, ..Storage::default() },
    ];
    let (client, _node) = connect(&fake, Maps::Auto).await;
    let (streaming, _other) = connect(&fake, Maps::Off).await;
    let streams: Vec<_> =
        read_all(&streaming).await.unwrap().into_iter().filter(|batch| batch.num_rows() > 0).collect();
    assert_eq!(streams, expected);
    assert_eq!(streamed(&fake).len(), 3);
    for (n, storage) in storages.into_iter().enumerate() {
        door.state().storage = storage;
        let mapped = read_all(&client).await.unwrap();
        assert_eq!(streamed(&fake), [], "storage {n} was not mapped");
        for ((mapped, streamed), number) in mapped.iter().zip(&streams).zip(0..) {
            assert_eq!(mapped, streamed, "storage {n}, batch {number}");
            assert_eq!(mapped.schema(), streamed.schema(), "metadata too");
            for column in mapped.columns() {
                column.to_data().validate_full().unwrap();
            }
        }
        assert_eq!(mapped.len(), streams.len());
    }
    all_closed(&mut door).await;
}

/// Every column has one value, or none at all.
fn uniform(columns: usize) -> Fake {
    let words = DataType::Dictionary(DataType::Int32.into(), DataType::Utf8.into());
    let types = [DataType::Int64, words, DataType::Utf8View, DataType::Decimal128(9, 2)];
    let fields = types.iter().cycle().take(columns).enumerate();
    let fields = fields.map(|(n, t)| Field::new(format!("c{n}"), t.clone(), true)).collect::<Vec<_>>();
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let one = random_batch(&schema, 1, 5);
    let batch = |rows: usize| {
        let columns = one.columns().iter().enumerate().map(|(n, column)| match n {
            1 => arrow_array::new_null_array(column.data_type(), rows),
            _ => piece::repeated(column, rows).unwrap(),
        });
        RecordBatch::try_new(schema.clone(), columns.collect()).unwrap()
    };
    Fake::of(schema.clone(), vec![vec![batch(4), batch(9), batch(2)]])
}

#[tokio::test]
async fn constants_and_nulls_are_put_in_between() {
    let fake = uniform(8);
    let door = fake.open_door();
    let (constant, null) = (HashSet::from([0, 2, 7]), HashSet::from([1]));
    door.state().storage = Storage { constant, null, cut: true, ..Storage::default() };
    let (client, _node) = connect(&fake, Maps::Auto).await;
    assert_eq!(read_all(&client).await.unwrap(), fake.batches());
    assert_eq!(streamed(&fake), []);
}

#[tokio::test]
async fn a_piece_without_files_has_its_rows() {
    let fake = uniform(4);
    let door = fake.open_door();
    let (constant, null) = (HashSet::from([0, 2, 3]), HashSet::from([1]));
    door.state().storage = Storage { constant, null, ..Storage::default() };
    // The second piece is streamed, from behind the last batch of the first.
    door.state().faults.push_back(MapFault::CloseAfter(1));
    let (client, _node) = connect(&fake, Maps::Auto).await;
    let read = read_all(&client).await.unwrap();
    assert_eq!(read.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [13, 2]);
    assert_eq!(arrow_select::concat::concat_batches(&read[0].schema(), &read).unwrap(), {
        arrow_select::concat::concat_batches(&read[0].schema(), &fake.batches()).unwrap()
    });
    assert_eq!(streamed(&fake), [Some((0, 1))]);

    let none: SchemaRef = Arc::new(Schema::empty());
    let rows = RecordBatchOptions::new().with_row_count(Some(7));
    let fake = Fake::of(none.clone(), vec![vec![RecordBatch::try_new_with_options(none, vec![], &rows).unwrap()]]);
    let _door = fake.open_door();
    let (client, _node) = connect(&fake, Maps::Auto).await;
    let read = read_all(&client).await.unwrap();
    assert_eq!(read.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [7]);
    assert_eq!(streamed(&fake), []);
}

/// The lines of a file of `/proc/self` that name something in the door's directory.
fn of_the_door(what: &str, door: &MapDoor) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/self/{what}")).unwrap();
    let directory = door.directory.path().to_str().unwrap();
    text.lines().filter(|line| line.contains(directory)).map(str::to_owned).collect()
}

#[tokio::test]
async fn arrays_are_slices_of_the_map_and_keep_it_and_the_connection() {
    let fake = Fake::new(1, 4);
    let mut door = fake.open_door();
    let (client, _node) = connect(&fake, Maps::Auto).await;
    let mut read = read_all(&client).await.unwrap();
    assert_eq!(*door.open.borrow(), 1);
    let maps = of_the_door("maps", &door);
    assert_eq!(maps.len(), 2, "one for each piece: {maps:?}");
    for batch in &read {
        for buffer in batch.column(0).to_data().buffers().iter().chain(batch.column(2).to_data().buffers()) {
            let at = buffer.as_ptr() as usize;
            let lies = |line: &String| {
                let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
                (usize::from_str_radix(start, 16).unwrap()..usize::from_str_radix(end, 16).unwrap()).contains(&at)
            };
            assert!(maps.iter().any(lies), "a buffer was copied");
        }
    }
    let open_files = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| {
        let target = std::fs::read_link(entry.unwrap().path()).ok()?;
        (target.starts_with(door.directory.path())).then_some(target)
    });
    assert_eq!(open_files.collect::<Vec<_>>(), Vec::<PathBuf>::new(), "descriptors are closed once mapped");

    // The first piece's map goes with its last batch.
    read.drain(..2);
    assert_eq!(of_the_door("maps", &door).len(), 1);
    let last = read.pop().unwrap().column(0).slice(3, 2);
    drop((read, client));
    assert_eq!((*door.open.borrow(), of_the_door("maps", &door).len()), (1, 1));
    assert_eq!(last.as_any().downcast_ref::<Int64Array>().unwrap().values(), &[33, 34]);
    drop(last);
    all_closed(&mut door).await;
    assert_eq!(of_the_door("maps", &door).len(), 0);
}

#[test]
fn arrays_outlive_the_runtime_that_read_them() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (servers, readers) = (runtime(), runtime());
    let fake = Fake::new(1, 4);
    let mut door = servers.block_on(async { fake.open_door() });
    let node = servers.block_on(fake.serve());
    let read = readers.block_on(async {
        let client = Client::connect_with(&list(&[&node.address]), options()).await.unwrap();
        read_all(&client).await.unwrap()
    });
    drop(readers);
    assert_eq!((read.as_slice(), *door.open.borrow()), (fake.batches().as_slice(), 1));
    drop(read);
    servers.block_on(all_closed(&mut door));
}

#[tokio::test]
async fn what_breaks_off_goes_on_streamed_behind_the_last_batch() {
    type Broken = (&'static str, fn() -> MapFault, Option<(u32, u32)>);
    let faults: [Broken; 16] = [
        ("is refused", || MapFault::Refuse, None),
        ("ends at once", || MapFault::CloseAfter(0), None),
        ("ends within", || MapFault::CloseAfter(1), Some((0, 1))),
        ("garbage", || MapFault::Answer(b"HTTP/2 is spoken here".to_vec()), None),
        ("no message", || MapFault::Answer(vec![3, 0, 0, 0, 0xFF, 0xFF, 0xFF]), None),
        ("an empty reply", || MapFault::Answer(vec![0, 0, 0, 0]), None),
        ("no schema", || MapFault::Header(Box::new(|header| header.schema = vec![1; 9].into())), None),
        ("begins elsewhere", || MapFault::Header(Box::new(|header| header.first = 1)), None),
        ("fewer pieces", || MapFault::Header(Box::new(|header| header.pieces = 1)), Some((0, 1))),
        ("another piece", || MapFault::Piece(Box::new(|piece| piece.piece = 7)), Some((0, 1))),
        ("a column less", || MapFault::Piece(Box::new(|piece| drop(piece.columns.pop()))), Some((0, 1))),
        ("a column nowhere", || MapFault::Piece(Box::new(|piece| piece.columns[1].values = None)), Some((0, 1))),
        ("files left out", || MapFault::Piece(Box::new(|piece| piece.files = 0)), Some((0, 1))),
        ("more batches", || MapFault::Piece(Box::new(|piece| piece.batches = 3)), Some((0, 1))),
        ("more rows than batches", || MapFault::Piece(Box::new(|piece| piece.rows += 1)), Some((1, 1))),
        ("fewer rows", || MapFault::Piece(Box::new(|piece| piece.rows_cut += 3)), Some((1, 1))),
    ];
    for (name, fault, after) in faults {
        let fake = Fake::new(1, 4);
        let mut door = fake.open_door();
        door.state().faults.push_back(fault());
        let (client, _node) = connect(&fake, Maps::Auto).await;
        let read = read_all(&client).await;
        assert_eq!(streamed(&fake), [after], "{name}");
        match name {
            // What was given out can't be taken back: that the rest does not fit is an error.
            "fewer rows" => assert!(read.unwrap_err().message().contains("37 rows came, fewer"), "{name}"),
            _ => assert_eq!(read.unwrap(), fake.batches(), "{name}"),
        }
        all_closed(&mut door).await;
    }
}

#[tokio::test]
async fn damaged_files_are_streamed_and_never_a_crash() {
    type Damage = (&'static str, fn(&mut Vec<u8>));
    let damages: [Damage; 9] = [
        ("empty", |file| file.clear()),
        ("short", |file| file.truncate(5)),
        ("no magic", |file| *file.last_mut().unwrap() ^= 1),
        ("a footer longer than the file", |file| {
            let at = file.len() - 10;
            file[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        }),
        ("a footer of nonsense", |file| {
            let at = file.len() - 30;
            file[at - 60..at].fill(0xFF);
        }),
        ("cut in front", |file| drop(file.drain(..file.len() / 2))),
        ("its first half zero", |file| {
            let half = file.len() / 2;
            file[..half].fill(0);
        }),
        ("headers of nonsense", |file| {
            let end = file.len() - 700;
            file[64..end].fill(0xA5);
        }),
        ("column numbers", |_| {}),
    ];
    for (name, damage) in damages {
        let fake = Fake::new(1, 4);
        let door = fake.open_door();
        door.state().faults.push_back(match name {
            "column numbers" => MapFault::Piece(Box::new(|piece| {
                let Some(roost_proto::v1::mapped_column::Values::File(at)) = &mut piece.columns[0].values else {
                    panic!("it is in a file")
                };
                at.column = 99;
            })),
            _ => MapFault::File(Box::new(damage)),
        });
        let (client, _node) = connect(&fake, Maps::Auto).await;
        assert_eq!(read_all(&client).await.unwrap(), fake.batches(), "{name}");
        let asked = streamed(&fake);
        assert!(matches!(asked[..], [Some((0, 1) | (1, 0))]), "{name}: {asked:?}");
    }
}

#[tokio::test]
async fn a_socket_that_does_not_work_is_left_alone_and_one_that_refuses_is_not() {
    let fake = Fake::new(3, 2);
    let door = fake.open_door();
    let (client, _node) = connect(&fake, Maps::Auto).await;
    door.state().faults.extend([MapFault::Refuse, MapFault::CloseAfter(0)]);
    assert_eq!(read_all(&client).await.unwrap(), fake.batches());
    assert_eq!(door.state().asked, [0, 1], "the third is not even tried");
    // Another client knows nothing of it.
    let (client, _node) = connect(&fake, Maps::Auto).await;
    assert_eq!(read_all(&client).await.unwrap(), fake.batches());
    assert_eq!(door.state().asked, [0, 1, 0, 1, 2]);
}

#[tokio::test]
async fn sockets_that_are_none_and_other_locations_are_streamed() {
    let fake = Fake::new(2, 2);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "").unwrap();
    let at = |name: &str| format!("grpc+unix://{}/{name}", directory.path().display());
    for locations in [
        vec![],
        vec![at("nothing"), at("file")],
        vec!["grpc+unix://%ff".into(), "arrow-flight-reuse-connection://?".into(), "nonsense".into()],
        vec![at(&"x".repeat(200))],
    ] {
        fake.state().locations = locations;
        let (client, _node) = connect(&fake, Maps::Auto).await;
        assert_eq!(read_all(&client).await.unwrap(), fake.batches());
        assert_eq!(streamed(&fake).len(), 2);
    }
}

#[tokio::test]
async fn maps_can_be_switched_off() {
    let fake = Fake::new(2, 2);
    let door = fake.open_door();
    let (client, _node) = connect(&fake, Maps::Off).await;
    assert_eq!(read_all(&client).await.unwrap(), fake.batches());
    assert_eq!((door.state().asked.len(), streamed(&fake).len()), (0, 2));
}

#[tokio::test]
async fn a_reader_that_leaves_lets_go_also_while_it_waits() {
    let fake = Fake::new(1, 8);
    let mut door = fake.open_door();
    let (client, _node) = connect(&fake, Maps::Auto).await;
    let ticket = within(plan(&client)).await.tickets.remove(0);

    door.state().faults.push_back(MapFault::HangAfter(1));
    let mut batches = client.read(&ticket);
    let held: Vec<_> = within(batches.by_ref().take(4).try_collect()).await.unwrap();
    assert!(futures::poll!(batches.next()).is_pending(), "the node hangs");
    drop(batches);
    assert_eq!(held, fake.batches()[..4]);
    drop(held);
    all_closed(&mut door).await;
}

#[tokio::test]
async fn a_slow_reader_holds_no_more_than_its_window() {
    let fake = Fake::new(1, 40);
    fake.state().piece = 1;
    let mut door = fake.open_door();
    let (client, _node) = connect(&fake, Maps::Auto).await;
    let ticket = within(plan(&client)).await.tickets.remove(0);
    let mut batches = client.read(&ticket);
    for taken in 1..=30 {
        within(batches.try_next()).await.unwrap().unwrap();
        // One waits for the reader, one for its place, and two pieces are under way.
        within(async {
            while door.state().pieces < taken + 4 {
                tokio::task::yield_now().await;
            }
            for _ in 0..20 {
                tokio::task::spawn_blocking(|| ()).await.unwrap();
            }
        })
        .await;
        assert_eq!(door.state().pieces, taken + 4, "after {taken}");
    }
    drop(batches);
    all_closed(&mut door).await;
}

#[tokio::test]
async fn flight_is_spoken_over_a_socket_too() {
    let fake = Fake::new(2, 3);
    let directory = tempfile::tempdir().unwrap();
    let node = fake.serve_at(&directory.path().join("flight.sock"));
    for maps in [Maps::Off, Maps::Auto] {
        // Who speaks Flight alone refuses maps.
        let client = Client::connect_with(&list(&[&node.address]), Options { maps, ..options() }).await.unwrap();
        assert_eq!(read_all(&client).await.unwrap(), fake.batches());
        assert_eq!(streamed(&fake).len(), 2);
        within(client.stat()).await.unwrap();
    }
    let gone: crate::NodeAddress = format!("{}.gone", node.address).parse().unwrap();
    let client = within(Client::connect_with(&list(&[&gone, &node.address]), options())).await.unwrap();
    assert_eq!(*client.node(), node.address);
    let error = within(Client::connect_with(&list(&[&gone]), options())).await.unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::NoNode);
    assert!(error.message().contains(&gone.to_string()), "{error}");
}

#[tokio::test]
async fn tickets_without_locations_are_mapped_by_the_node_at_the_socket() {
    let fake = Fake::new(1, 2);
    let door = fake.open_door();
    let (client, node) = connect(&fake, Maps::Auto).await;
    let carried = crate::Ticket::from_bytes(within(plan(&client)).await.tickets[0].as_bytes().clone());
    let client = Client::connect_with(&list(&[&node.address, &door.address]), options()).await.unwrap();
    let read: Vec<_> = within(client.read(&carried).try_collect()).await.unwrap();
    assert_eq!((read, streamed(&fake)), (fake.batches(), vec![]));
}
