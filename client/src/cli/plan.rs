//! `roost plan`: the tickets that read a data set.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::ValueEnum;
use roost_proto::v1::{Even, Piece, PlanRequest, Shuffle};
use serde::Serialize;

use super::args::{Columns, DatasetUrl, NodeArgs};
use super::console::{Console, Failure};
use super::table::{self, Heading};
use super::{Exit, explain, units};
use crate::plan::{Plan as Planned, Ticket};

/// Tickets in a table, unless asked otherwise.
const TABLE_ROWS: u64 = 50;

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  roost plan s3://bucket/train/                  the first 50 tickets, and how many there are
  roost plan s3://bucket/train/ --from 50        the next 50
  roost plan s3://bucket/train/ --columns label --limit 1000
  roost plan s3://bucket/train/ --json | jq .rows
  roost plan s3://bucket/train/ --shuffle rows --seed 7 --epoch 3 --rank 0 --world-size 8
  roost plan s3://bucket/train/ --shuffle rows --seed 7 --explain

Row group ids are those of the objects at or below the URL: part-0.parquet#rg0-3 is four row \
groups, read as one.

JSON: one document, of all tickets unless --count is given.
  url (canonical), fingerprint, job, objects, row_groups, rows, bytes (decoded, estimated), tickets_total,
  from, next (null on the last page), schema: [{name, type, nullable}],
  blocks, block (row groups each), plan_rows (of all ranks),
  tickets: [{index, rows, bytes, ticket (base64 of the Flight ticket), block,
    pieces: [{url, row_group, row_groups, rows, rows_cut}]}]
With --explain: url, fingerprint, shuffle, seed, epoch, block, blocks, rank, world_size, rows, bytes, row_groups,
  row_groups_pruned, nodes: [{node, row_groups, bytes, row_groups_cached, bytes_cached}], expected_hits (0 to 1),
  origin_bytes, batch_size, variance_inflation (null if not shuffled), recommended_block, recommended_block_bytes")]
pub struct Plan {
    /// A Parquet object, a prefix (ends with /), or a glob
    url: DatasetUrl,
    /// Only these columns, in this order, separated by commas; "" is none
    #[arg(long, value_name = "A,B")]
    columns: Option<Columns>,
    /// At most this many rows, from the start
    #[arg(long, value_name = "ROWS")]
    limit: Option<u64>,
    /// Leave out this many rows at the start of the order; --limit counts from there
    #[arg(long, value_name = "ROWS", default_value_t = 0, hide_default_value = true)]
    skip: u64,
    /// The order of row groups and rows; those of a block are mixed by the reader
    #[arg(long, value_enum, value_name = "ORDER", default_value_t = ShuffleArg::None)]
    shuffle: ShuffleArg,
    /// What orders are drawn from
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
    /// Which of the orders of a seed
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    epoch: u64,
    /// Row groups whose rows are mixed [default: about 256 MiB, and at least 16 blocks]
    #[arg(long, value_name = "ROW GROUPS", value_parser = clap::value_parser!(u64).range(1..))]
    block: Option<u64>,
    /// Only the part of one of several readers
    #[arg(long, value_name = "NUMBER", requires = "world_size")]
    rank: Option<u64>,
    /// How many readers there are
    #[arg(long, value_name = "READERS", requires = "rank", value_parser = clap::value_parser!(u64).range(1..))]
    world_size: Option<u64>,
    /// Make readers equally long: as the shortest, or as the longest
    #[arg(long, value_enum, value_name = "HOW", default_value_t = EvenArg::None, hide_default_value = true)]
    even: EvenArg,
    /// Tell what reading will take instead of listing tickets
    #[arg(long, conflicts_with_all = ["from", "count"])]
    explain: bool,
    /// Rows of a reader's batches, for what --explain says of the shuffle
    #[arg(long, value_name = "ROWS", default_value_t = 256, requires = "explain",
        value_parser = clap::value_parser!(u64).range(1..))]
    batch_size: u64,
    /// Skip this many tickets
    #[arg(long, value_name = "TICKETS", default_value_t = 0)]
    from: u64,
    /// Show this many tickets; 0 is all [default: 50, with --json all]
    #[arg(long, value_name = "TICKETS")]
    count: Option<u64>,
    /// The name of the job that will read; the node makes one up if there is none
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    job: String,
    /// List the origin again, even if the last listing is still fresh
    #[arg(long)]
    refresh: bool,
    #[command(flatten)]
    pub(super) node: NodeArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ShuffleArg {
    /// As rows lie
    None,
    /// Row groups in a drawn order
    RowGroups,
    /// Blocks of row groups in a drawn order, their rows mixed
    Rows,
}

impl From<ShuffleArg> for Shuffle {
    fn from(shuffle: ShuffleArg) -> Self {
        match shuffle {
            ShuffleArg::None => Self::None,
            ShuffleArg::RowGroups => Self::RowGroups,
            ShuffleArg::Rows => Self::Rows,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EvenArg {
    /// Not
    None,
    /// As the shortest: rows are left out
    Drop,
    /// As the longest: rows come again
    Repeat,
}

impl From<EvenArg> for Even {
    fn from(even: EvenArg) -> Self {
        match even {
            EvenArg::None => Self::None,
            EvenArg::Drop => Self::Drop,
            EvenArg::Repeat => Self::Repeat,
        }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    url: &'a str,
    fingerprint: String,
    job: &'a str,
    objects: u64,
    row_groups: u64,
    rows: u64,
    bytes: u64,
    blocks: u64,
    block: u64,
    plan_rows: u64,
    tickets_total: u64,
    from: u64,
    next: Option<u64>,
    schema: Vec<Field<'a>>,
    tickets: Vec<TicketReport<'a>>,
}

#[derive(Serialize)]
struct Field<'a> {
    name: &'a str,
    r#type: String,
    nullable: bool,
}

#[derive(Serialize)]
struct TicketReport<'a> {
    index: u64,
    rows: u64,
    bytes: u64,
    ticket: String,
    block: u64,
    pieces: Vec<PieceReport<'a>>,
}

#[derive(Serialize)]
struct PieceReport<'a> {
    url: &'a str,
    row_group: u32,
    row_groups: u32,
    rows: u64,
    rows_cut: u64,
}

impl Plan {
    pub(super) async fn run(self, console: &mut Console) -> Result<Exit, Failure> {
        let client = self.node.connect().await?;
        let shown = self.count.unwrap_or(if self.node.json { 0 } else { TABLE_ROWS });
        let request = PlanRequest {
            url: self.url.0,
            columns: self.columns.map(Into::into),
            limit: self.limit,
            skip: self.skip,
            shuffle: Shuffle::from(self.shuffle).into(),
            seed: self.seed,
            epoch: self.epoch,
            block: self.block.unwrap_or(0),
            rank: self.rank.unwrap_or(0),
            world_size: self.world_size.unwrap_or(0),
            even: Even::from(self.even).into(),
            from: self.from,
            count: if self.explain { 1 } else { shown },
            want_explain: self.explain,
            job: self.job,
            refresh: self.refresh,
            ..PlanRequest::default()
        };
        let plan = client.plan(request.clone()).await?;
        if self.explain {
            explain::explain(console, &plan, &request, self.batch_size, self.node.json)?;
            return Ok(Exit::Success);
        }
        if self.node.json {
            console.json(&report(&plan))?;
        } else {
            show(console, &plan)?;
        }
        Ok(Exit::Success)
    }
}

fn show(console: &mut Console, plan: &Planned) -> Result<(), Failure> {
    let base = base_of(&plan.info.url);
    let headings =
        [Heading::Number("TICKET"), Heading::Text("ROW GROUPS"), Heading::Number("ROWS"), Heading::Number("BYTES")];
    let mut table = table::table(&headings);
    for (index, ticket) in numbered(plan) {
        let (rows, bytes, pieces) = facts(ticket);
        let ids = pieces.iter().map(|piece| id_of(piece, base)).collect::<Vec<_>>().join(" ");
        table.add_row([units::grouped(index), ids, units::grouped(rows), units::bytes(bytes)]);
    }
    if !plan.tickets.is_empty() {
        write!(console.out(), "{}", table::text(&table))?;
        console.line("")?;
    }
    let info = &plan.info;
    console.line(format_args!(
        "{}: {} of {} in {}, {}, about {} decoded; job {}",
        info.url,
        units::count(info.tickets, "ticket"),
        units::count(info.row_groups, "row group"),
        units::count(info.objects, "object"),
        units::rows(info.rows),
        units::bytes(info.bytes),
        info.job,
    ))?;
    if let Some(next) = plan.next {
        console.line(format_args!(
            "{} shown; --from {next} shows the next, --count 0 all",
            units::count(plan.tickets.len() as u64, "ticket")
        ))?;
    }
    Ok(())
}

fn report(plan: &Planned) -> Report<'_> {
    let info = &plan.info;
    Report {
        url: &info.url,
        fingerprint: hex::encode(&info.fingerprint),
        job: &info.job,
        objects: info.objects,
        row_groups: info.row_groups,
        rows: info.rows,
        bytes: info.bytes,
        blocks: info.blocks,
        block: info.block,
        plan_rows: info.plan_rows,
        tickets_total: info.tickets,
        from: plan.from,
        next: plan.next,
        schema: plan.schema.fields().iter().map(|f| field(f)).collect(),
        tickets: numbered(plan).map(|(index, ticket)| ticket_report(index, ticket)).collect(),
    }
}

fn field(field: &arrow_schema::Field) -> Field<'_> {
    Field { name: field.name(), r#type: field.data_type().to_string(), nullable: field.is_nullable() }
}

fn ticket_report(index: u64, ticket: &Ticket) -> TicketReport<'_> {
    let (rows, bytes, pieces) = facts(ticket);
    let pieces = pieces.iter().map(|piece| PieceReport {
        url: &piece.url,
        row_group: piece.row_group,
        row_groups: piece.row_groups,
        rows: piece.rows,
        rows_cut: piece.rows_cut,
    });
    TicketReport {
        index,
        rows,
        bytes,
        ticket: BASE64.encode(ticket.as_bytes()),
        block: ticket.info.as_ref().map_or(0, |info| info.block),
        pieces: pieces.collect(),
    }
}

fn numbered(plan: &Planned) -> impl Iterator<Item = (u64, &Ticket)> {
    (plan.from..).zip(&plan.tickets)
}

fn facts(ticket: &Ticket) -> (u64, u64, &[Piece]) {
    match &ticket.info {
        Some(info) => (info.rows, info.bytes, &info.pieces),
        None => (0, 0, &[]),
    }
}

/// The part of a data set's URL that its objects share: up to the last slash before any glob.
fn base_of(url: &str) -> &str {
    let fixed = url.find(['*', '?', '[']).map_or(url, |glob| &url[..glob]);
    fixed.rfind('/').map_or("", |slash| &fixed[..=slash])
}

/// `dir/part-0.parquet#rg4`, or `#rg4-7` for a run.
fn id_of(piece: &Piece, base: &str) -> String {
    let object = piece.url.strip_prefix(base).filter(|rest| !rest.is_empty()).unwrap_or(&piece.url);
    let first = piece.row_group;
    match piece.row_groups {
        0 | 1 => format!("{object}#rg{first}"),
        more => format!("{object}#rg{first}-{}", u64::from(first) + u64::from(more) - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_groups_are_named_below_the_data_set() {
        let piece =
            |row_groups| Piece { url: "s3://b/d/x.parquet".into(), row_group: 4, row_groups, ..Default::default() };
        assert_eq!(id_of(&piece(1), base_of("s3://b/d/")), "x.parquet#rg4");
        assert_eq!(id_of(&piece(4), base_of("s3://b/d/x.parquet")), "x.parquet#rg4-7");
        assert_eq!(id_of(&piece(1), base_of("s3://b/*/x.parquet")), "d/x.parquet#rg4");
        assert_eq!(id_of(&piece(1), base_of("s3://other/")), "s3://b/d/x.parquet#rg4");
    }
}
