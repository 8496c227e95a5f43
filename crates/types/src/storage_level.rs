//! Where data is kept, and how often.

use std::fmt;
use std::str::FromStr;

/// Where an executor keeps data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Medium {
    /// In memory alone: what there is no room for is let go of, and made again when somebody asks for it.
    Memory,
    /// In memory; what there is no room for goes to files.
    #[default]
    MemoryAndDisk,
    /// In files.
    Disk,
}

/// How the batches of a stream are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StorageLevel {
    pub medium: Medium,
    /// Whether another executor has a copy.
    pub replicated: bool,
}

impl StorageLevel {
    pub const MEMORY: Self = Self::of(Medium::Memory, false);
    pub const MEMORY_AND_DISK: Self = Self::of(Medium::MemoryAndDisk, false);
    pub const DISK: Self = Self::of(Medium::Disk, false);
    pub const MEMORY_2: Self = Self::of(Medium::Memory, true);
    pub const MEMORY_AND_DISK_2: Self = Self::of(Medium::MemoryAndDisk, true);
    pub const DISK_2: Self = Self::of(Medium::Disk, true);

    pub const ALL: [Self; 6] = [
        Self::MEMORY,
        Self::MEMORY_AND_DISK,
        Self::DISK,
        Self::MEMORY_2,
        Self::MEMORY_AND_DISK_2,
        Self::DISK_2,
    ];

    const fn of(medium: Medium, replicated: bool) -> Self {
        Self { medium, replicated }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match (self.medium, self.replicated) {
            (Medium::Memory, false) => "memory",
            (Medium::MemoryAndDisk, false) => "memory_and_disk",
            (Medium::Disk, false) => "disk",
            (Medium::Memory, true) => "memory_2",
            (Medium::MemoryAndDisk, true) => "memory_and_disk_2",
            (Medium::Disk, true) => "disk_2",
        }
    }

    /// The names of all levels.
    #[must_use]
    pub fn names() -> [&'static str; 6] {
        Self::ALL.map(Self::name)
    }
}

impl Default for StorageLevel {
    fn default() -> Self {
        Self::MEMORY_AND_DISK
    }
}

impl fmt::Display for StorageLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// It is not the name of a storage level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownLevel;

impl FromStr for StorageLevel {
    type Err = UnknownLevel;

    fn from_str(name: &str) -> Result<Self, UnknownLevel> {
        let known = Self::ALL.into_iter().find(|level| level.name() == name);
        known.ok_or(UnknownLevel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_levels() {
        for level in StorageLevel::ALL {
            assert_eq!(level.name().parse(), Ok(level));
        }
        assert_eq!("memory_3".parse::<StorageLevel>(), Err(UnknownLevel));
    }
}
