//! The vocabulary of generated lines, most frequent first.

use std::sync::LazyLock;

use super::template::below;

/// Picks from a list by Zipf's law: the second is half as frequent as the first, the third a third, and so on.
pub(super) struct Zipf {
    items: &'static [&'static str],
    /// Weights summed up to and including each item. Whole numbers, so that all platforms pick alike.
    cumulative: Vec<u64>,
}

impl Zipf {
    /// Divisible enough for the weights of some hundred ranks to differ.
    const SCALE: u64 = 1_000_000_000;

    fn new(items: &'static [&'static str]) -> Self {
        let mut sum = 0;
        let cumulative = (1..=items.len() as u64)
            .map(|rank| {
                sum += Self::SCALE / rank;
                sum
            })
            .collect();
        Self { items, cumulative }
    }

    pub(super) fn words() -> &'static Self {
        static WORDS_BY_RANK: LazyLock<Zipf> = LazyLock::new(|| Zipf::new(&WORDS));
        &WORDS_BY_RANK
    }

    pub(super) fn hashtags() -> &'static Self {
        static HASHTAGS_BY_RANK: LazyLock<Zipf> = LazyLock::new(|| Zipf::new(&HASHTAGS));
        &HASHTAGS_BY_RANK
    }

    pub(super) fn pick(&self, draw: u64) -> &'static str {
        let total = self.cumulative.last().copied().unwrap_or(0);
        let point = below(draw, total);
        let at = self.cumulative.partition_point(|&sum| sum <= point);
        self.items[at.min(self.items.len() - 1)]
    }
}

/// Common English words.
#[rustfmt::skip]
pub(super) const WORDS: [&str; 284] = [
    "the", "be", "to", "of", "and", "a", "in", "that", "have", "it", "for", "not", "on", "with", "he", "as", "you",
    "do", "at", "this", "but", "his", "by", "from", "they", "we", "say", "her", "she", "or", "an", "will", "my",
    "one", "all", "would", "there", "their", "what", "so", "up", "out", "if", "about", "who", "get", "which", "go",
    "me", "when", "make", "can", "like", "time", "no", "just", "him", "know", "take", "people", "into", "year",
    "your", "good", "some", "could", "them", "see", "other", "than", "then", "now", "look", "only", "come", "its",
    "over", "think", "also", "back", "after", "use", "two", "how", "our", "work", "first", "well", "way", "even",
    "new", "want", "because", "any", "these", "give", "day", "most", "us", "is", "was", "are", "been", "has", "had",
    "were", "said", "did", "getting", "having", "may", "should", "am", "being", "lot", "much", "many", "still",
    "very", "too", "really", "here", "again", "never", "always", "great", "today", "tomorrow", "yesterday", "tonight",
    "morning", "night", "week", "weekend", "game", "team", "match", "goal", "win", "lose", "best", "love", "hate",
    "hope", "need", "feel", "left", "right", "world", "life", "home", "house", "city", "street", "road", "car",
    "train", "bus", "plane", "coffee", "tea", "lunch", "dinner", "pizza", "music", "song", "band", "show", "movie",
    "film", "book", "story", "news", "photo", "video", "phone", "laptop", "code", "data", "stream", "batch", "window",
    "river", "tide", "mill", "water", "wheel", "sea", "wave", "wind", "rain", "sun", "snow", "summer", "winter",
    "spring", "autumn", "friend", "family", "mother", "father", "sister", "brother", "child", "baby", "dog", "cat",
    "bird", "happy", "sad", "tired", "hungry", "busy", "ready", "late", "early", "finally", "maybe", "almost",
    "already", "nothing", "everything", "something", "someone", "everyone", "school", "class", "teacher", "student",
    "exam", "office", "meeting", "boss", "job", "money", "bank", "price", "sale", "shop", "market", "garden", "park",
    "beach", "mountain", "lake", "forest", "run", "walk", "ride", "drive", "fly", "swim", "read", "write", "play",
    "watch", "listen", "wait", "sleep", "dream", "wake", "start", "stop", "finish", "open", "close", "buy", "sell",
    "send", "call", "meet", "help", "try", "learn", "teach", "build", "break", "fix", "change", "move", "turn",
    "follow", "share", "post",
];

/// Hashtags without their `#`.
#[rustfmt::skip]
pub(super) const HASHTAGS: [&str; 48] = [
    "love", "instagood", "photooftheday", "happy", "fashion", "nofilter", "tbt", "beautiful", "follow", "cute", "art",
    "photography", "music", "nature", "travel", "fitness", "food", "foodie", "sunset", "coffee", "weekend",
    "football", "worldcup", "election", "breaking", "news", "tech", "ai", "rustlang", "opensource", "bigdata",
    "streaming", "gamedev", "startup", "climate", "space", "nasa", "movies", "nowplaying", "mondaymotivation",
    "throwback", "cats", "dogs", "yoga", "running", "vegan", "diy", "books",
];

/// First names.
#[rustfmt::skip]
pub(super) const NAMES: [&str; 59] = [
    "ada", "alan", "anna", "ben", "carla", "chen", "dana", "david", "dora", "elena", "emil", "emma", "erik", "farid",
    "fatima", "finn", "grace", "hana", "hugo", "ida", "ines", "ivan", "jane", "jonas", "juan", "karin", "kenji",
    "lars", "leila", "lena", "linus", "luca", "maria", "mario", "maya", "mia", "milan", "nadia", "nina", "noah",
    "olga", "omar", "otto", "paula", "pavel", "priya", "rosa", "sam", "sara", "sofia", "tara", "theo", "tom", "uma",
    "vera", "viktor", "wang", "yara", "zoe",
];
