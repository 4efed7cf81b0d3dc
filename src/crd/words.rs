//! The one conversion between CamelCase words (custom resources) and lower_snake words (HTTP API,
//! Postgres, labels), e.g. `AwaitingJudge` and `awaiting_judge`.

/// `AwaitingJudge` to `awaiting_judge`.
pub fn snake(camel: &str) -> String {
    let mut out = String::with_capacity(camel.len() + 4);
    for (i, c) in camel.chars().enumerate() {
        if c.is_ascii_uppercase() {
            if i > 0 {
                out.push('_');
            }
            out.push(c.to_ascii_lowercase());
        } else {
            out.push(c);
        }
    }
    out
}

/// `awaiting_judge` to `AwaitingJudge`.
pub fn camel(snake: &str) -> String {
    snake
        .split('_')
        .map(|part| {
            let mut chars = part.chars();
            chars.next().map(|c| c.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_convert_both_ways() {
        for (c, s) in
            [("Queued", "queued"), ("AwaitingJudge", "awaiting_judge"), ("NeedsRework", "needs_rework")]
        {
            assert_eq!(snake(c), s);
            assert_eq!(camel(s), c);
        }
    }
}
