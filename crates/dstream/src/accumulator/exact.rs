//! Sums of floating-point numbers without rounding.
//!
//! Every finite `f64` is a whole multiple of 2^-1074, so a sum of them is one long whole number. It is held in limbs of
//! 32 bits, each in 64, and rounded only when it is read (the "small superaccumulator" of R. M. Neal, Fast Exact Summation
//! Using Small and Large Superaccumulators, 2015). Addition of whole numbers is associative and commutative: the result
//! is the same in any order and over any number of partitions.
//!
//! ```text
//!   bit 2^-1074 ─► limb 0 │ limb 1 │ ... │ limb 65 │ 66, 67: carries of up to 2^64 numbers ◄─ sign
//! ```

/// Limbs of a sum: 2098 bits of the numbers, and 64 for carries.
pub const LIMBS: usize = 68;
const BITS: u32 = 32;
const MASK: i64 = (1 << BITS) - 1;
/// Each addition changes a limb by less than 2^32, so this many fit before carries have to move on.
const MAX_PENDING: u32 = 1 << 30;
/// The weight of bit 0 is 2^-1074.
const UNIT: i32 = -1074;
/// Bits of a number's significand, the hidden one included.
const SIGNIFICAND: u32 = 53;

/// The exact sum of finite numbers. Infinite ones are counted by their sign.
#[derive(Clone, Debug)]
pub struct ExactSum {
    /// All but the last are in `0..2^32` when nothing is pending; the last has the sign.
    limbs: [i64; LIMBS],
    pending: u32,
    positive_infinities: u64,
    negative_infinities: u64,
}

impl Default for ExactSum {
    fn default() -> Self {
        Self {
            limbs: [0; LIMBS],
            pending: 0,
            positive_infinities: 0,
            negative_infinities: 0,
        }
    }
}

impl PartialEq for ExactSum {
    fn eq(&self, other: &Self) -> bool {
        let infinities = |sum: &Self| (sum.positive_infinities, sum.negative_infinities);
        infinities(self) == infinities(other) && self.carried() == other.carried()
    }
}

impl ExactSum {
    /// The parts of a sum as [`parts`](Self::parts) gave them; limbs that are missing are 0.
    #[must_use]
    pub fn from_parts(limbs: &[i64], positive_infinities: u64, negative_infinities: u64) -> Self {
        let mut sum = Self {
            positive_infinities,
            negative_infinities,
            ..Self::default()
        };
        for (limb, given) in sum.limbs.iter_mut().zip(limbs) {
            // Parts may come from anywhere: what no sum has must not overflow later.
            *limb = *given & MASK;
        }
        if let (Some(last), Some(given)) = (sum.limbs.last_mut(), limbs.get(LIMBS - 1)) {
            *last = i64::from(*given as i32);
        }
        sum
    }

    /// The limbs with carries moved on, and the numbers of positive and negative infinities.
    #[must_use]
    pub fn parts(&self) -> ([i64; LIMBS], u64, u64) {
        (self.carried(), self.positive_infinities, self.negative_infinities)
    }

    /// Adds a number that is not NaN.
    pub fn add(&mut self, number: f64) {
        if number.is_infinite() {
            if number > 0.0 {
                self.positive_infinities += 1;
            } else {
                self.negative_infinities += 1;
            }
            return;
        }
        let bits = number.to_bits();
        let exponent = ((bits >> 52) & 0x7ff) as u32;
        let fraction = bits & ((1 << 52) - 1);
        // A subnormal number has no hidden bit and the exponent of the least normal one.
        let (significand, shift) = match exponent {
            0 => (fraction, 0),
            exponent => (fraction | 1 << 52, exponent - 1),
        };
        let first = (shift / BITS) as usize;
        let spread = u128::from(significand) << (shift % BITS);
        let sign = if number.is_sign_negative() { -1 } else { 1 };
        for (i, limb) in self.limbs[first..first + 3].iter_mut().enumerate() {
            let part = (spread >> (BITS as usize * i)) as i64 & MASK;
            *limb += sign * part;
        }
        self.pending += 1;
        if self.pending >= MAX_PENDING {
            self.carry();
        }
    }

    pub fn merge(&mut self, other: &Self) {
        self.carry();
        let limbs = other.carried();
        for (limb, add) in self.limbs.iter_mut().zip(limbs) {
            *limb = limb.wrapping_add(add);
        }
        self.carry();
        self.positive_infinities = self.positive_infinities.saturating_add(other.positive_infinities);
        self.negative_infinities = self.negative_infinities.saturating_add(other.negative_infinities);
    }

    fn carry(&mut self) {
        self.limbs = self.carried();
        self.pending = 0;
    }

    fn carried(&self) -> [i64; LIMBS] {
        let mut limbs = self.limbs;
        let mut carry = 0;
        for limb in &mut limbs[..LIMBS - 1] {
            let sum = *limb + carry;
            *limb = sum & MASK;
            carry = sum >> BITS;
        }
        limbs[LIMBS - 1] = limbs[LIMBS - 1].wrapping_add(carry);
        limbs
    }

    /// The sum, rounded once, to the nearest number and of two such to the even one. Infinite if it is beyond all
    /// numbers or infinite ones were added, NaN if those were of both signs.
    #[must_use]
    pub fn value(&self) -> f64 {
        match (self.positive_infinities, self.negative_infinities) {
            (0, 0) => {}
            (_, 0) => return f64::INFINITY,
            (0, _) => return f64::NEG_INFINITY,
            _ => return f64::NAN,
        }
        let limbs = self.carried();
        if limbs[LIMBS - 1] < 0 {
            return -round(&negated(limbs));
        }
        round(&limbs)
    }

    /// Whether infinite numbers were added, so that the value is none by itself.
    #[must_use]
    pub fn has_infinities(&self) -> bool {
        self.positive_infinities > 0 || self.negative_infinities > 0
    }
}

/// Two's complement over all limbs.
fn negated(mut limbs: [i64; LIMBS]) -> [i64; LIMBS] {
    let mut carry = 1;
    for limb in &mut limbs[..LIMBS - 1] {
        let sum = (!*limb & MASK) + carry;
        *limb = sum & MASK;
        carry = sum >> BITS;
    }
    limbs[LIMBS - 1] = (!limbs[LIMBS - 1]).wrapping_add(carry);
    limbs
}

/// The nearest number to limbs that are not negative.
fn round(limbs: &[i64; LIMBS]) -> f64 {
    let Some(top) = limbs.iter().rposition(|limb| *limb != 0) else {
        return 0.0;
    };
    // Up to four limbs hold a significand and what decides its rounding; whether anything is below them is one bit.
    let low = top.saturating_sub(3);
    let mut bits = limbs[low..=top]
        .iter()
        .rev()
        .fold(0_u128, |bits, limb| bits << BITS | *limb as u128);
    if limbs[..low].iter().any(|limb| *limb != 0) {
        bits |= 1;
    }
    let mut exponent = UNIT + (BITS as i32) * low as i32;
    let width = u128::BITS - bits.leading_zeros();
    if width > SIGNIFICAND {
        let excess = width - SIGNIFICAND;
        let rest = bits & ((1 << excess) - 1);
        let half = 1 << (excess - 1);
        bits >>= excess;
        exponent += excess as i32;
        if rest > half || (rest == half && bits & 1 == 1) {
            bits += 1;
        }
    }
    scale(bits as u64, exponent)
}

/// `significand` times 2^`exponent`, which is no less than the weight of bit 0: exact unless it is too large.
fn scale(significand: u64, exponent: i32) -> f64 {
    let power = |exponent: i32| f64::from_bits(((exponent + 1023) as u64) << 52);
    // At most 2^53.
    let number = significand as f64;
    if exponent > 971 {
        f64::INFINITY
    } else if exponent >= -1022 {
        number * power(exponent)
    } else {
        // Both steps are exact, for the result is a whole multiple of 2^-1074.
        number * power(-1022) * power(exponent + 1022)
    }
}
