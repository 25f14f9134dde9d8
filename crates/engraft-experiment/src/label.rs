//! Where the labels of points in a figure go, so that they cover neither points nor each other.

/// A point in pixels.
pub type Pixel = (i32, i32);

/// A rectangle in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rectangle {
    /// The left edge.
    pub left: i32,
    /// The upper edge.
    pub top: i32,
    /// The right edge.
    pub right: i32,
    /// The lower edge.
    pub bottom: i32,
}

impl Rectangle {
    /// A rectangle around its middle.
    #[must_use]
    pub fn around(middle: Pixel, width: i32, height: i32) -> Self {
        let (left, top) = (middle.0 - width / 2, middle.1 - height / 2);
        Self {
            left,
            top,
            right: left + width,
            bottom: top + height,
        }
    }

    /// The common area of two rectangles.
    #[must_use]
    pub fn overlap(self, other: Self) -> i64 {
        let side = |low: i32, high: i32| i64::from((high - low).max(0));
        side(self.left.max(other.left), self.right.min(other.right))
            * side(self.top.max(other.top), self.bottom.min(other.bottom))
    }

    /// The point of the rectangle that is nearest to another point.
    #[must_use]
    pub fn nearest(self, point: Pixel) -> Pixel {
        (
            point.0.clamp(self.left, self.right),
            point.1.clamp(self.top, self.bottom),
        )
    }

    /// The distance from a point to the rectangle.
    #[must_use]
    pub fn gap(self, point: Pixel) -> f64 {
        let near = self.nearest(point);
        f64::from(near.0 - point.0).hypot(f64::from(near.1 - point.1))
    }
}

/// A placed label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Where it is.
    pub rectangle: Rectangle,
    /// Whether a line must lead from the point to it, because it is far or another point is nearer.
    pub needs_line: bool,
}

/// Places labels of the given sizes beside their points, each as near as it can be without covering
/// `obstacles` or other labels. `unit` is the size of a point of the figure in pixels.
#[must_use]
pub fn place(
    points: &[Pixel],
    sizes: &[(i32, i32)],
    obstacles: &[Rectangle],
    frame: Rectangle,
    unit: i32,
) -> Vec<Placed> {
    let mut taken = obstacles.to_vec();
    points
        .iter()
        .zip(sizes)
        .map(|(point, size)| {
            let padded = (size.0 + 6 * unit, size.1 + 2 * unit);
            let found = free_place(*point, padded, unit, frame, &taken);
            taken.push(found);
            let own = found.gap(*point);
            let other = points
                .iter()
                .filter(|other| *other != point)
                .map(|other| found.gap(*other));
            let far = own > f64::from(12 * unit);
            let needs_line =
                far || other.fold(f64::INFINITY, f64::min) <= own + f64::from(2 * unit);
            let middle = (
                (found.left + found.right) / 2,
                (found.top + found.bottom) / 2,
            );
            Placed {
                rectangle: Rectangle::around(middle, size.0, size.1),
                needs_line,
            }
        })
        .collect()
}

/// The first place, going outwards around the point, that covers nothing, otherwise the one that
/// covers least.
fn free_place(
    point: Pixel,
    (width, height): (i32, i32),
    unit: i32,
    frame: Rectangle,
    taken: &[Rectangle],
) -> Rectangle {
    // Steps across and along, in halves of the way from the point to a label beside it.
    const DIRECTIONS: [(i32, i32); 12] = [
        (2, 0),
        (-2, 0),
        (0, -2),
        (0, 2),
        (2, -2),
        (2, 2),
        (-2, -2),
        (-2, 2),
        (1, -2),
        (1, 2),
        (-1, -2),
        (-1, 2),
    ];
    let mut best = (i64::MAX, frame);
    for distance in [5, 10, 16, 24, 34, 46, 60, 76].map(|points| points * unit) {
        for (across, along) in DIRECTIONS {
            let middle = (
                point.0 + across * (distance + width / 2) / 2,
                point.1 + along * (distance + height / 2) / 2,
            );
            let place = Rectangle::around(middle, width, height);
            let outside = i64::from(width) * i64::from(height) - place.overlap(frame);
            let covered: i64 = taken.iter().map(|other| place.overlap(*other)).sum();
            let cost = 4 * outside + covered;
            if cost < best.0 {
                best = (cost, place);
            }
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cover_nothing_as_long_as_there_is_room() {
        let frame = Rectangle {
            left: 0,
            top: 0,
            right: 1000,
            bottom: 1000,
        };
        let points = [(500, 500), (503, 500), (506, 498), (500, 505), (998, 2)];
        let obstacles = points.map(|point| Rectangle::around(point, 10, 10));
        let placed = place(&points, &[(60, 14); 5], &obstacles, frame, 1);
        for (index, label) in placed.iter().enumerate() {
            let rectangle = label.rectangle;
            assert_eq!(rectangle.overlap(frame), 60 * 14);
            assert!(obstacles.iter().all(|other| rectangle.overlap(*other) == 0));
            assert!(
                placed[..index]
                    .iter()
                    .all(|other| rectangle.overlap(other.rectangle) == 0)
            );
        }
        assert!(placed[0].needs_line && !placed[4].needs_line);
    }
}
