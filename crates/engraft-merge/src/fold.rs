//! Updates folded into the weights of a checkpoint: W + dW, strip by strip.
//!
//! A byte of the checkpoint is read where the system keeps it, and written once. Strips are widened,
//! updated and rounded in parallel while earlier ones are written; of a weight only a few strips are
//! in memory at a time.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use engraft_kernels::Region;
use rayon::prelude::*;
use safetensors::Dtype;
use serde_json::{Map, Value};

use crate::base::{Base, Layout};
use crate::error::{Error, Result};
use crate::file::{HostTensor, Info, Planned, TensorWriter, narrow, size, widen, write_atomically};
use crate::update::{Strips, Update};

/// Numbers of a strip: 2 MiB in single precision.
const STRIP: usize = 1 << 19;

/// Strips that are made together; while they are written, the next ones are made.
const TOGETHER: usize = 8;
const WAITING: usize = 2 * TOGETHER;

/// What is done to a checkpoint.
pub struct Fold<'a> {
    /// The modules with an update.
    pub modules: &'a BTreeMap<String, Layout>,
    /// dW and db of one of them.
    pub update: &'a dyn Fn(&str) -> Result<Update>,
    /// Parameters that are replaced, or added where the checkpoint lacks them.
    pub saved: &'a BTreeMap<String, HostTensor>,
}

/// What folding wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Folded {
    /// Weights and biases that changed.
    pub changed: usize,
    /// Bytes of all tensors.
    pub bytes: u64,
}

/// What becomes of a tensor of the checkpoint.
enum Fate<'a> {
    Kept,
    Weight(&'a str),
    Bias(&'a str),
    Replaced(&'a HostTensor),
}

/// Writes the checkpoint of `base` with updates into the directory `out`: the same files with the same
/// tensors in the same precision.
///
/// # Errors
/// A module that the checkpoint lacks or that has another shape there; an update of a bias that it
/// lacks; a disk that is full. No file is left that looks whole and is not.
pub fn fold(base: &Base, what: &Fold<'_>, out: &Path) -> Result<Folded> {
    let mut fates: BTreeMap<String, Fate<'_>> = BTreeMap::new();
    for module in what.modules.keys() {
        fates.insert(base.weight_name(module)?, Fate::Weight(module));
        if let Some(bias) = base.find(module, "bias") {
            fates.insert(bias, Fate::Bias(module));
        }
    }
    let mut added = BTreeMap::new();
    for (path, tensor) in what.saved {
        let (module, field) = path.rsplit_once('.').unwrap_or(("", path));
        match base.find(module, field) {
            Some(name) => drop(fates.insert(name, Fate::Replaced(tensor))),
            None => drop(added.insert(path.clone(), tensor)),
        }
    }
    let mut folder = Folder {
        base,
        what,
        last: None,
        folded: Folded::default(),
    };
    let files: Vec<&Path> = base.files().paths().collect();
    let mut map = Map::new();
    for (at, path) in files.iter().enumerate() {
        let name = match (files.len(), path.file_name()) {
            (2.., Some(name)) => name.to_string_lossy().into_owned(),
            _ => "model.safetensors".to_owned(),
        };
        let own = base
            .files()
            .infos()
            .iter()
            .filter(|(_, info)| info.file() == at);
        let own: BTreeMap<&String, &Info> = own.collect();
        let mut planned: Vec<Planned> = own
            .iter()
            .map(|(name, info)| Planned {
                name: (*name).clone(),
                dtype: info.dtype,
                shape: info.shape.clone(),
            })
            .collect();
        // What the checkpoint lacks goes into its last file.
        let extra = if at + 1 == files.len() {
            &added
        } else {
            &BTreeMap::new()
        };
        planned.extend(extra.iter().map(|(name, tensor)| Planned {
            name: name.clone(),
            dtype: Dtype::F32,
            shape: tensor.shape.clone(),
        }));
        planned
            .iter()
            .for_each(|tensor| drop(map.insert(tensor.name.clone(), name.as_str().into())));
        let metadata = base.files().metadata();
        let writer = TensorWriter::create(&out.join(&name), planned, metadata)?;
        folder.file(writer, &fates, &own, extra)?;
    }
    if files.len() > 1 {
        let index = serde_json::json!({
            "metadata": {"total_size": folder.folded.bytes},
            "weight_map": Value::Object(map),
        });
        let text = serde_json::to_vec_pretty(&index).expect("plain data");
        write_atomically(&out.join("model.safetensors.index.json"), &text)?;
    }
    Ok(folder.folded)
}

struct Folder<'a> {
    base: &'a Base,
    what: &'a Fold<'a>,
    /// A weight and its bias lie side by side: the update is made once.
    last: Option<(String, Update)>,
    folded: Folded,
}

impl Folder<'_> {
    fn file(
        &mut self,
        writer: TensorWriter,
        fates: &BTreeMap<String, Fate<'_>>,
        own: &BTreeMap<&String, &Info>,
        added: &BTreeMap<String, &HostTensor>,
    ) -> Result<()> {
        let order = writer.order();
        let (sender, pieces) = sync_channel(WAITING);
        let (done, used) = channel();
        std::thread::scope(|scope| {
            let written = scope.spawn(move || written(writer, pieces, done));
            let mut pieces = Pieces { sender, used };
            let made = order.iter().try_for_each(|tensor| {
                self.folded.bytes += tensor.bytes() as u64;
                let Some(info) = own.get(&tensor.name) else {
                    return pieces.numbers(Dtype::F32, &added[&tensor.name].data);
                };
                self.tensor(&tensor.name, info, fates.get(&tensor.name), &mut pieces)
            });
            drop(pieces);
            let written = written.join().expect("the writer does not panic");
            // A writer that stopped closed the channel: its reason is the first.
            match (made, written) {
                (Err(Error::Input(reason)), Err(error)) if reason == STOPPED => Err(error),
                (Err(error), _) => Err(error),
                (Ok(()), written) => written?.finish(),
            }
        })
    }

    fn tensor(
        &mut self,
        name: &str,
        info: &Info,
        fate: Option<&Fate<'_>>,
        pieces: &mut Pieces,
    ) -> Result<()> {
        let files = self.base.files();
        match fate.unwrap_or(&Fate::Kept) {
            Fate::Kept => {
                for start in (0..info.bytes()).step_by(16 * STRIP) {
                    let len = (info.bytes() - start).min(16 * STRIP);
                    pieces.send(Piece::Kept(files.part(info, start, Some(len))?))?;
                }
                Ok(())
            }
            Fate::Replaced(tensor) => {
                files.check_weight(name, info)?;
                if tensor.shape != info.shape {
                    let reason = format!(
                        "{name} is {:?} in the base and {:?} in the adapter",
                        info.shape, tensor.shape
                    );
                    return Err(Error::input(reason));
                }
                self.folded.changed += 1;
                pieces.numbers(info.dtype, &tensor.data)
            }
            Fate::Bias(module) => {
                let before = files.read(name)?.data;
                let change = self.update(module)?.bias_change(Some(&before));
                let after: Vec<f32> = match change {
                    None => before,
                    Some(change) if change.len() == before.len() => {
                        self.folded.changed += 1;
                        let sums = before.iter().zip(change);
                        sums.map(|(b, d)| (f64::from(*b) + d) as f32).collect()
                    }
                    Some(change) => {
                        let reason = format!(
                            "{name} has {} numbers in the base, the update {}",
                            before.len(),
                            change.len()
                        );
                        return Err(Error::input(reason));
                    }
                };
                pieces.numbers(info.dtype, &after)
            }
            Fate::Weight(module) => {
                files.check_weight(name, info)?;
                self.folded.changed += 1;
                self.weight(module, info, pieces)
            }
        }
    }

    fn update(&mut self, module: &str) -> Result<&Update> {
        if self.last.as_ref().is_none_or(|(last, _)| last != module) {
            let update = (self.what.update)(module)?;
            if update.bias.is_some() && self.base.find(module, "bias").is_none() {
                return Err(Error::input(format!(
                    "module `{module}`: the update has a bias, for which the base has no place: write deltas instead"
                )));
            }
            self.last = Some((module.to_owned(), update));
        }
        Ok(&self.last.as_ref().expect("just made").1)
    }

    fn weight(&mut self, module: &str, info: &Info, pieces: &mut Pieces) -> Result<()> {
        let rows = info.shape.first().copied().unwrap_or(1);
        let columns: usize = info.shape.iter().skip(1).product();
        let files = self.base.files();
        let turned = self.what.modules[module].is_transposed();
        let update = self.update(module)?;
        let transposed = if turned {
            Some(update.transposed()?)
        } else {
            None
        };
        let update = transposed.as_ref().unwrap_or(update);
        let found = Update::zero(rows, columns).common_shape(update);
        let update = Update {
            shape: found.map_err(|error| Error::input(format!("module `{module}`: {error}")))?,
            ..update.clone()
        };
        let strips = Strips::new(&update)?;
        let height = (STRIP / columns.max(1)).max(1);
        let number = size(info.dtype);
        let starts: Vec<usize> = (0..rows).step_by(height).collect();
        for together in starts.chunks(TOGETHER) {
            let (first, end) = (together[0], rows.min(together[together.len() - 1] + height));
            let line = columns * number;
            let region = files.part(info, first * line, Some((end - first) * line))?;
            let buffers: Vec<Vec<u8>> = together.iter().map(|_| pieces.buffer()).collect();
            let made = together.par_iter().zip(buffers).map_init(
                Vec::new,
                |strip: &mut Vec<f32>, (&start, mut bytes)| -> Result<Vec<u8>> {
                    let range = start..rows.min(start + height);
                    let count = range.len() * columns;
                    strip.resize(count, 0.0);
                    let from = (start - first) * line;
                    widen(info.dtype, &region[from..from + count * number], strip);
                    let before = update.needs_base().then(|| strip.clone());
                    strips.add_to(range, before.as_deref(), strip)?;
                    bytes.resize(count * number, 0);
                    narrow(info.dtype, strip, &mut bytes);
                    Ok(bytes)
                },
            );
            for bytes in made.collect::<Vec<_>>() {
                pieces.send(Piece::Made(bytes?))?;
            }
        }
        Ok(())
    }
}

const STOPPED: &str = "writing stopped";

/// What is written next.
enum Piece {
    Made(Vec<u8>),
    /// Of the checkpoint, where the system keeps it.
    Kept(Region),
}

/// The way to the writer, and back for memory that can be used again.
struct Pieces {
    sender: SyncSender<Piece>,
    used: Receiver<Vec<u8>>,
}

impl Pieces {
    fn buffer(&mut self) -> Vec<u8> {
        self.used.try_recv().unwrap_or_default()
    }

    fn send(&mut self, piece: Piece) -> Result<()> {
        self.sender.send(piece).map_err(|_| Error::input(STOPPED))
    }

    fn numbers(&mut self, dtype: Dtype, numbers: &[f32]) -> Result<()> {
        let mut bytes = vec![0; numbers.len() * size(dtype)];
        narrow(dtype, numbers, &mut bytes);
        self.send(Piece::Made(bytes))
    }
}

fn written(
    mut writer: TensorWriter,
    pieces: Receiver<Piece>,
    done: Sender<Vec<u8>>,
) -> Result<TensorWriter> {
    for piece in pieces {
        match piece {
            Piece::Kept(region) => writer.bytes(&region)?,
            Piece::Made(bytes) => {
                writer.bytes(&bytes)?;
                // Whoever makes pieces may have made the last one.
                let _ = done.send(bytes);
            }
        }
    }
    Ok(writer)
}
