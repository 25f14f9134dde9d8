//! Loading an adapter into a large weight on the host, and taking it out again.

use engraft_linalg::gaussian;
use engraft_merge::Result;
use engraft_merge::switch::{Change, Saved};
use engraft_merge::update::{Factors, Sparse, Update};
use engraft_tensor::Key;

/// A weight of [side, side] and an adapter for it.
#[derive(Debug)]
pub struct Switching {
    weight: Vec<f32>,
    /// The other weights of a model, which have driven this one out of the caches.
    others: Vec<f32>,
    change: Change,
    saved: Option<Saved>,
}

impl Switching {
    /// `lora_r<rank>`, or `shira_r<rank>`: 2 rank side entries, as many as LoRA has, or
    /// `shira_<percent>`: so many percent of all.
    ///
    /// # Errors
    /// Another name.
    pub fn new(what: &str, side: usize) -> std::result::Result<Self, String> {
        let number = |front: &str| what.strip_prefix(front)?.parse::<usize>().ok();
        let update = match (number("lora_r"), number("shira_r"), number("shira_")) {
            (Some(rank), ..) => low_rank(rank, side),
            (_, Some(rank), _) => Ok(sparse(2 * rank * side, side)),
            (_, _, Some(percent)) => Ok(sparse(percent * side * side / 100, side)),
            _ => {
                return Err(format!(
                    "found {what}, expected lora_r8, shira_r8 or shira_1"
                ));
            }
        };
        let change = update.and_then(|update| Change::new(&update));
        Ok(Self {
            weight: vec![0.5; side * side],
            others: vec![0.5; 2 * side * side],
            change: change.map_err(|error| error.to_string())?,
            saved: None,
        })
    }

    /// Puts the adapter into the weight.
    pub fn load(&mut self) {
        self.saved = Some(self.change.apply(&mut self.weight, false));
    }

    /// Takes it out again, and passes over other weights.
    pub fn unload(&mut self) {
        if let Some(saved) = self.saved.take() {
            self.change.remove(&mut self.weight, saved);
        }
        self.others.iter_mut().for_each(|x| *x += 1.0);
    }
}

fn low_rank(rank: usize, side: usize) -> Result<Update> {
    let mut random = Key::new(0).rng();
    let left = gaussian(side, rank, &mut random);
    let right = gaussian(rank, side, &mut random);
    Ok(Update::low_rank(Factors::new(left, right)?))
}

/// Entries at random places; a few of them coincide.
fn sparse(count: usize, side: usize) -> Update {
    let all = (side * side) as u64;
    // SplitMix64.
    let random = |at: u64| {
        let mut z = at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let entries = (1..=count as u64).map(|at| (random(at) % all, 0.25));
    Update::sparse(side, side, Sparse::new(entries.collect()))
}
