//! Batches of an order that is divided window by window.

use engraft_data::text::Order;

use crate::batcher::Batches;
use crate::error::Result;

/// The epoch and the place in it of a window of batches.
type Window = (u64, u64);

/// The batches of an [`Order`], of which one window is held at a time.
#[derive(Debug, Clone)]
pub struct Windowed<F> {
    order: Order,
    batches: F,
    /// The window that was asked for last, and its batches.
    held: Option<(Window, Vec<Vec<usize>>)>,
}

impl<F: FnMut(u64) -> Result<Vec<Vec<usize>>>> Windowed<F> {
    /// `batches` gives those of the window that a step is in.
    pub fn new(order: Order, batches: F) -> Self {
        Self {
            order,
            batches,
            held: None,
        }
    }
}

impl<F: FnMut(u64) -> Result<Vec<Vec<usize>>>> Batches for Windowed<F> {
    fn rows(&mut self, step: u64) -> Result<&[usize]> {
        let (window, place) = self.order.window(step);
        let window = (self.order.epoch(step), window);
        if self.held.as_ref().is_none_or(|(held, _)| *held != window) {
            self.held = Some((window, (self.batches)(step)?));
        }
        Ok(&self.held.as_ref().expect("it was just filled").1[place])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_divided_once_and_its_steps_are_the_orders() {
        let order = Order::new(20, 3, 5).unwrap().bucketed(2);
        let lengths = |rows: &[usize]| Ok(vec![1; rows.len()]);
        let mut asked = 0;
        let mut windowed = Windowed::new(order.clone(), |step| {
            asked += 1;
            Ok(order.batches(step, lengths)?)
        });
        let steps = 2 * order.steps_per_epoch();
        for step in 0..steps {
            let expected = &order.batches(step, lengths).unwrap()[order.window(step).1];
            assert_eq!(windowed.rows(step).unwrap(), expected);
        }
        // Seven batches an epoch, two a window.
        assert_eq!(asked, 8);
    }
}
