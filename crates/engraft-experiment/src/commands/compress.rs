//! `compress`: an adapter or a checkpoint in fewer bytes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use engraft_experiment::{Error, Result};
use engraft_merge::compress::{
    Amount, Codec, Compeft, Grouping, Magnitude, Options, Quantised, Report, Scale, Scope, compress,
};
use engraft_merge::factorise::Rank;

/// Arguments of `compress`.
#[derive(Args)]
pub struct Arguments {
    /// Directory of an adapter or a checkpoint, or a safetensors file
    input: PathBuf,
    /// How it is stored
    #[arg(long)]
    codec: Name,
    /// Where the result goes: a directory that is not there yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// An adapter or checkpoint with the same tensors: what is stored is the change from it
    #[arg(long, value_name = "PATH")]
    base: Option<PathBuf>,
    /// compeft, sparse: the share of entries that is kept [compeft: 0.1]
    #[arg(long)]
    density: Option<f64>,
    /// compeft: the magnitude in standard deviations, or `mean` for that of least error
    #[arg(long, default_value = "1")]
    alpha: String,
    /// compeft: whether the largest of each tensor are kept, or those of all
    #[arg(long, value_enum, default_value_t = ScopeName::Whole)]
    scope: ScopeName,
    /// quantised: bits of a number, 1 to 8
    #[arg(long, default_value_t = 4)]
    bits: usize,
    /// quantised: what shares a scale: tensor, row or so many numbers
    #[arg(long, default_value = "row")]
    group: String,
    /// quantised: levels from the least number to the largest, instead of around zero
    #[arg(long)]
    affine: bool,
    /// svd: the rank; sparse: as many entries as LoRA of this rank has
    #[arg(long, conflicts_with_all = ["density", "energy"])]
    rank: Option<usize>,
    /// svd: the share of the squared singular values that is kept
    #[arg(long)]
    energy: Option<f64>,
    /// Keep tensors exactly whose names contain this; several may be given
    #[arg(long, value_name = "PART")]
    keep: Vec<String>,
    /// Print every tensor
    #[arg(long)]
    tensors: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    /// Signs of the largest entries and one magnitude (ComPEFT)
    Compeft,
    /// 1 to 8 bits a number
    Quantised,
    /// Signs of all changes of a checkpoint, a magnitude a matrix (BitDelta)
    Bitdelta,
    /// What differs from the base, lossless
    Delta,
    /// A LoRA adapter of lower rank
    Svd,
    /// A SHiRA adapter of the largest entries
    Sparse,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScopeName {
    Whole,
    Tensor,
}

/// Compresses and prints sizes and errors.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut options = Options::new(arguments.codec()?);
    options.base.clone_from(&arguments.base);
    options.keep.extend(arguments.keep.iter().cloned());
    let report = compress(&arguments.input, &arguments.out, &options).map_err(input)?;
    print(&report, arguments.tensors);
    println!("{}", arguments.out.display());
    Ok(())
}

impl Arguments {
    fn codec(&self) -> Result<Codec> {
        Ok(match self.codec {
            Name::Compeft => Codec::Compeft(Compeft {
                density: self.density.unwrap_or(Compeft::default().density),
                magnitude: match self.alpha.as_str() {
                    "mean" => Magnitude::Mean,
                    alpha => Magnitude::Deviation(alpha.parse().map_err(|_| {
                        input(format!("--alpha {alpha}: expected a number or `mean`"))
                    })?),
                },
                scope: match self.scope {
                    ScopeName::Whole => Scope::Whole,
                    ScopeName::Tensor => Scope::Tensor,
                },
            }),
            Name::Quantised => Codec::Quantised(Quantised {
                bits: self.bits,
                grouping: match self.group.as_str() {
                    "tensor" => Grouping::Tensor,
                    "row" => Grouping::Row,
                    len => Grouping::Group(len.parse().map_err(|_| {
                        input(format!("--group {len}: expected tensor, row or a number"))
                    })?),
                },
                scale: match self.affine {
                    true => Scale::Affine,
                    false => Scale::Absmax,
                },
            }),
            Name::Bitdelta => Codec::BitDelta,
            Name::Delta => Codec::Delta,
            Name::Svd => Codec::Svd(match (self.rank, self.energy) {
                (Some(rank), None) => Rank::Fixed(rank),
                (None, Some(energy)) => Rank::Energy(energy),
                _ => return Err(input("codec svd needs --rank or --energy")),
            }),
            Name::Sparse => Codec::Sparse(match (self.rank, self.density) {
                (Some(rank), None) => Amount::Rank(rank),
                (None, Some(density)) => Amount::Density(density),
                _ => {
                    return Err(input(
                        "codec sparse needs --rank (PEFT reads that) or --density",
                    ));
                }
            }),
        })
    }
}

/// Prints the sizes and errors of a report, and its tensors on request.
pub(super) fn print(report: &Report, tensors: bool) {
    let error = |error: f64| format!("{error:.2e}");
    let bits = |bits: Option<f64>| bits.map_or("-".to_owned(), |bits| format!("{bits:.0}"));
    if tensors {
        let header = [
            "tensor",
            "stored as",
            "bytes before",
            "bits",
            "by formula",
            "relative error",
        ];
        let rows = report.tensors.iter().map(|tensor| {
            [
                tensor.name.clone(),
                tensor.how.clone(),
                tensor.bytes_in.to_string(),
                tensor.bits.to_string(),
                bits(tensor.predicted),
                tensor.error.map_or("-".to_owned(), error),
            ]
        });
        println!("{}", table(header, rows.collect()));
    }
    for note in &report.notes {
        println!("note: {note}");
    }
    let header = [
        "codec",
        "bytes before",
        "bytes after",
        "ratio",
        "coded bits",
        "by formula",
        "relative error",
    ];
    let row = [
        report.codec.clone(),
        report.bytes_in.to_string(),
        report.bytes_out.to_string(),
        format!("{:.2}", report.ratio()),
        report.bits.to_string(),
        bits(report.predicted),
        error(report.error),
    ];
    println!("{}", table(header, vec![row]));
}

fn table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

pub(super) fn input(error: impl ToString) -> Error {
    Error::Input(error.to_string())
}
