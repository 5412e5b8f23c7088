//! Tables whose cells are wrapped. `comfy-table` cannot lay out these cells: without its feature
//! `custom_styling` it counts the escape sequences of styled text as columns.

use super::text::{Line, Text};

/// The width of the gap between two columns of a table, in characters.
const GAP: usize = 2;
/// A column with longer text is not made narrower than this, if the terminal is wide enough.
const READABLE_WIDTH: usize = 16;

/// The lines of a table that is at most `width` columns wide. The first row is the heading.
pub(super) fn table_lines(rows: &[Vec<Text>], width: usize) -> Vec<String> {
    let column_count = rows.iter().map(Vec::len).max().unwrap_or(0);
    if column_count == 0 {
        return Vec::new();
    }
    let column = |number: usize| rows.iter().filter_map(move |row| row.get(number));
    let natural: Vec<_> = (0..column_count)
        .map(|number| column(number).map(Text::columns).max().unwrap_or(0))
        .collect();
    let minimum: Vec<_> = (0..column_count)
        .map(|number| {
            let widest_word = column(number).map(Text::widest_word).max().unwrap_or(0);
            widest_word.max(natural[number].min(READABLE_WIDTH))
        })
        .collect();
    let available = width.saturating_sub(GAP * (column_count - 1));
    let widths = column_widths(&natural, &minimum, available);

    let wrapped_rows: Vec<Vec<Vec<Line>>> = rows
        .iter()
        .map(|row| {
            let cells = row.iter().zip(&widths);
            cells.map(|(cell, width)| cell.wrap(*width)).collect()
        })
        .collect();
    // Without a blank line, the rows of wrapped cells could not be told apart.
    let is_spaced = wrapped_rows
        .iter()
        .skip(1)
        .flatten()
        .any(|cell| cell.len() > 1);

    let mut lines = Vec::new();
    for (number, row) in wrapped_rows.iter().enumerate() {
        if is_spaced && number > 1 {
            lines.push(String::new());
        }
        lines.extend(row_lines(row, &widths));
        if number == 0 {
            let rules: Vec<_> = widths.iter().map(|width| "─".repeat(*width)).collect();
            lines.push(rules.join(&" ".repeat(GAP)));
        }
    }
    lines
}

fn row_lines(cells: &[Vec<Line>], widths: &[usize]) -> Vec<String> {
    let height = cells.iter().map(Vec::len).max().unwrap_or(0);
    let row_line = |number: usize| {
        let mut line = String::new();
        let mut pending_blanks = 0;
        for (cell, width) in cells.iter().zip(widths) {
            let part = cell.get(number).cloned().unwrap_or_default();
            if part.columns > 0 {
                line.push_str(&" ".repeat(pending_blanks));
                line.push_str(&part.styled);
                pending_blanks = 0;
            }
            pending_blanks += width - part.columns + GAP;
        }
        line
    };
    (0..height).map(row_line).collect()
}

/// The width of each column. Each gets its minimum if the sum allows it; the rest goes to the
/// columns in proportion to what they lack.
fn column_widths(natural: &[usize], minimum: &[usize], available: usize) -> Vec<usize> {
    if natural.iter().sum::<usize>() <= available {
        return natural.to_vec();
    }
    let mut widths = fair_shares(minimum, available);
    let rest = available.saturating_sub(widths.iter().sum());
    let lacking: Vec<_> = natural
        .iter()
        .zip(&widths)
        .map(|(natural, width)| natural.saturating_sub(*width))
        .collect();
    let total: usize = lacking.iter().sum();
    for (width, lacking) in widths.iter_mut().zip(&lacking) {
        *width += rest * lacking / total.max(1);
    }
    // The remainder of the integer division goes to the column that lacks most.
    let remainder = available.saturating_sub(widths.iter().sum());
    let neediest = (0..lacking.len()).max_by_key(|number| lacking[*number]);
    if let Some(width) = neediest.and_then(|number| widths.get_mut(number)) {
        *width += remainder;
    }
    widths
}

/// Divides the available width: a column that wants less than an equal share gets what it wants,
/// and the others divide the rest.
fn fair_shares(wanted: &[usize], available: usize) -> Vec<usize> {
    let mut order: Vec<_> = (0..wanted.len()).collect();
    order.sort_by_key(|number| wanted[*number]);
    let (mut shares, mut rest) = (vec![0; wanted.len()], available);
    for (position, number) in order.iter().enumerate() {
        let share = rest / (wanted.len() - position);
        shares[*number] = wanted[*number].min(share.max(1));
        rest = rest.saturating_sub(shares[*number]);
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::text::Style;

    fn row(cells: &[&str]) -> Vec<Text> {
        let cell = |cell: &&str| {
            let mut text = Text::default();
            text.push_text(Style::Plain, cell);
            text
        };
        cells.iter().map(cell).collect()
    }

    #[test]
    fn a_narrow_table_keeps_its_natural_widths() {
        let lines = table_lines(&[row(&["name", ""]), row(&["a", "text"])], 80);
        assert_eq!(lines, ["name", "────  ────", "a     text"]);
    }

    #[test]
    fn cells_are_wrapped_and_columns_stay_aligned() {
        let lines = table_lines(
            &[
                row(&["name", "meaning"]),
                row(&["first", "one two three four five six seven eight"]),
                row(&["second", "short"]),
            ],
            30,
        );
        assert!(
            lines.iter().all(|line| line.chars().count() <= 30),
            "{lines:?}"
        );
        assert_eq!(lines[2], "first   one two three four");
        assert_eq!(lines[3], "        five six seven eight");
        assert_eq!(lines[4..], ["", "second  short"]);
    }

    #[test]
    fn short_columns_keep_their_width_next_to_a_long_one() {
        assert_eq!(column_widths(&[5, 200], &[5, 16], 40), [5, 35]);
        assert_eq!(fair_shares(&[60, 37, 12], 76), [32, 32, 12]);
    }
}
