//! Less memory for activations.

use burn::tensor::Device;

/// The device on which to make or load a model whose backward pass computes the outputs of
/// element-wise operations again instead of keeping them (Chen et al. 2016; Burn's balanced strategy,
/// which keeps what matrix products return). The run is the same, to the last bit.
///
/// Everything that meets in an operation has to be of one strategy: make the model on this device
/// before adapters are attached to it, which then follow it. Data may be on the plain device.
pub fn recomputing(device: &Device) -> Device {
    device.clone().autodiff().gradient_checkpointing()
}
