use std::collections::HashMap;

use super::*;

fn render(template: &str, seed: u64, index: u64) -> String {
    let mut line = String::new();
    parse_template(template)
        .unwrap()
        .render(seed, BatchTime(5000), index, &mut line);
    line
}

#[test]
fn placeholders_of_the_line_and_braces_are_replaced() {
    assert_eq!(render("{{{index}}} at {batch_time}: done", 0, 42), "{42} at 5000: done");
    assert_eq!(render("", 0, 42), "");
    assert_eq!(render("ünï { index }", 0, 7), "ünï 7");
}

#[test]
fn a_line_is_a_function_of_seed_and_index() {
    for index in [0, 1, u64::MAX] {
        assert_eq!(render(TWEET_TEMPLATE, 1, index), render(TWEET_TEMPLATE, 1, index));
    }
    assert_ne!(render(TWEET_TEMPLATE, 1, 0), render(TWEET_TEMPLATE, 1, 1));
    assert_ne!(render(TWEET_TEMPLATE, 1, 0), render(TWEET_TEMPLATE, 2, 0));
}

/// These values must never change: runs on other machines and of other builds have to agree.
#[test]
fn a_line_is_the_same_on_every_platform_and_in_every_build() {
    assert_eq!(
        render("{word} {hashtag} {user} {int:1..1000} {pick:a|b|c}", 7, 123),
        "and #love hugo_91 549 a"
    );
}

#[test]
fn numbers_lie_in_their_range_and_reach_both_ends() {
    let draws: Vec<i64> = (0..200).map(|i| render("{int:-1..2}", 3, i).parse().unwrap()).collect();
    for expected in -1..=2 {
        assert!(draws.contains(&expected), "{expected}");
    }
    assert!(draws.iter().all(|draw| (-1..=2).contains(draw)));
    assert_eq!(render("{int:5..5}", 3, 0), "5");
    render("{int:-9223372036854775808..9223372036854775807}", 3, 0)
        .parse::<i64>()
        .unwrap();
}

#[test]
fn each_choice_is_picked_also_an_empty_one() {
    let picks: Vec<_> = (0..100).map(|i| render("<{pick:|b|c d}>", 3, i)).collect();
    for expected in ["<>", "<b>", "<c d>"] {
        assert!(picks.iter().any(|pick| pick == expected), "{expected}");
    }
}

#[test]
fn few_hashtags_are_frequent_and_many_are_rare() {
    let mut counts = HashMap::new();
    for index in 0..10_000 {
        *counts.entry(render("{hashtag}", 11, index)).or_insert(0u32) += 1;
    }
    assert!(counts.len() > 40, "{} hashtags", counts.len());
    assert!(counts.keys().all(|tag| tag.starts_with('#')));
    let mut counts: Vec<u32> = counts.into_values().collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    // By Zipf's law the first is twice the second and ten times the tenth.
    assert!((15..=25).contains(&(counts[0] * 10 / counts[1])), "{counts:?}");
    assert!((70..=140).contains(&(counts[0] * 10 / counts[9])), "{counts:?}");
}

#[test]
fn faults_name_their_place_and_what_was_meant() {
    let message = |template: &str| parse_template(template).unwrap_err().to_string();
    assert_eq!(
        message("hello {wrod}"),
        "unknown placeholder {wrod} at column 7; did you mean {word}?"
    );
    assert_eq!(
        message("{zebra}"),
        "unknown placeholder {zebra} at column 1; known are index, batch_time, word, hashtag, user, int, pick"
    );
    assert_eq!(
        message("ä {word"),
        "the brace at column 3 is not closed; write {{ for a brace as text"
    );
    assert_eq!(
        message("a } b"),
        "the closing brace at column 3 has no opening one; write }} for a brace as text"
    );
    assert_eq!(
        message("{word:x}"),
        "placeholder {word} at column 1 takes nothing behind a colon"
    );
    assert_eq!(
        message("{int}"),
        "{int:} at column 1 is not a range; write {int:1..100}"
    );
    assert_eq!(
        message("{int:1-5}"),
        "{int:1-5} at column 1 is not a range; write {int:1..100}"
    );
    assert_eq!(
        message("{int:5..1}"),
        "the range 5..1 at column 1 is empty; put the smaller number first"
    );
    assert_eq!(
        message("{pick:}"),
        "placeholder {pick} at column 1 has nothing to pick from; write {pick:a|b|c}"
    );
}

#[test]
fn the_demo_tweets_parse_and_look_like_tweets() {
    let tweet = render(TWEET_TEMPLATE, 1, 1);
    assert!(tweet.starts_with('@'), "{tweet}");
    assert!(tweet.matches(" #").count() >= 2, "{tweet}");
}
