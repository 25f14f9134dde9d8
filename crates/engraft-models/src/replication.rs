//! Models that repeat blocks of another: the `layer_replication` of PEFT.

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::Tensor;
use engraft_core::Result;

use crate::checkpoint::Origin;
use crate::shapes::bad;

/// The blocks of these ranges `[start, end)`, one after the other: their values are shared, their
/// parameters are not.
///
/// # Errors
/// A range that is empty or reaches beyond the last block.
pub(crate) fn repeated<B: Module>(blocks: &[B], ranges: &[[usize; 2]]) -> Result<Vec<B>> {
    let order = order(blocks.len(), ranges)?.into_iter();
    // Parameters of one id would be taken for one parameter when they are trained.
    Ok(order
        .map(|index| blocks[index].clone().map(&mut NewIds))
        .collect())
}

/// The blocks, by their position among the `count` there are.
///
/// # Errors
/// A range that is empty or reaches beyond the last block.
pub(crate) fn order(count: usize, ranges: &[[usize; 2]]) -> Result<Vec<usize>> {
    let outside = |range: &&[usize; 2]| range[0] >= range[1] || range[1] > count;
    if let Some([start, end]) = ranges.iter().find(outside) {
        return Err(bad(format!(
            "layers [{start}, {end}) to be replicated: expected a range of the {count} there are"
        )));
    }
    let each = ranges.iter().flat_map(|[start, end]| *start..*end);
    Ok(each.collect())
}

impl Origin {
    /// That of the model which repeats these blocks.
    pub(crate) fn repeating(&self, ranges: &[[usize; 2]]) -> Self {
        Self {
            replicated: ranges.to_vec(),
            ..self.clone()
        }
    }
}

/// Gives each parameter an id of its own; values are shared.
struct NewIds;

impl ModuleMapper for NewIds {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        Param::initialized(ParamId::new(), param.val())
    }
}
