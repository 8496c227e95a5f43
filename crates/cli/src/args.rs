//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

#[derive(Debug, Parser)]
#[command(
    name = "tidemill",
    version,
    about = "Runs D-Stream jobs on a laptop or a cluster",
    propagate_version = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// A TOML file over the built-in settings
    #[arg(long, global = true, env = "TIDEMILL_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What is logged: "info", "debug", "tidemill_driver=debug,info"
    #[arg(long, global = true, value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

/// Where the driver is.
#[derive(Debug, Args)]
pub(crate) struct DriverAddress {
    /// The driver, host:port
    #[arg(
        long,
        env = "TIDEMILL_DRIVER",
        default_value = "127.0.0.1:7077",
        value_name = "HOST:PORT"
    )]
    pub(crate) driver: String,
}

#[derive(Debug, Args)]
pub(crate) struct JobFile {
    /// The job file (YAML)
    pub(crate) file: PathBuf,
    /// Gives a value to ${NAME} in the job file; goes before the environment
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    pub(crate) set: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct RunLimits {
    /// End after this many completed batches
    #[arg(long, value_name = "N")]
    pub(crate) batches: Option<u64>,
    /// Replace batch directories that exist
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Take queued and bounded input batch after batch, without waiting for the clock
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// What is done to a broadcast variable.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct BroadcastChange {
    /// The content of this file becomes the value
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Read the job's own file again, or ask its query again
    #[arg(long)]
    pub(crate) refresh: bool,
    /// Drop the value from the executors' memory; a batch that uses it gets it again
    #[arg(long)]
    pub(crate) unpersist: bool,
    /// Drop the value for ever; batches that use it fail
    #[arg(long)]
    pub(crate) destroy: bool,
}

/// How a broadcast file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileFormat {
    /// A list of lines
    Text,
    /// One value of bytes
    Bytes,
    Csv,
    Json,
    Parquet,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs a job in this process, on a cluster of its own
    Run {
        #[command(flatten)]
        job: JobFile,
        #[command(flatten)]
        limits: RunLimits,
        /// Executors in this process
        #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
        executors: u32,
    },
    /// Shows it at work: makes tweets and counts their hashtags over a sliding window
    Demo {
        /// End after this many batches
        #[arg(long, value_name = "N")]
        batches: Option<u64>,
        /// Executors in this process
        #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
        executors: u32,
    },
    /// Starts the driver of a cluster
    Driver {
        /// host:port to listen on
        #[arg(long, value_name = "HOST:PORT")]
        bind: Option<String>,
        /// Executors to wait for before the first batch of a job
        #[arg(long, value_name = "N")]
        min_executors: Option<u32>,
    },
    /// Starts an executor
    Executor {
        /// The driver, host:port
        #[arg(long, env = "TIDEMILL_DRIVER", value_name = "HOST:PORT")]
        driver: Option<String>,
        /// host:port that peers connect to
        #[arg(long, value_name = "HOST:PORT")]
        bind: Option<String>,
        /// The address that peers are told, if it is not the bound one
        #[arg(long, value_name = "HOST:PORT")]
        advertise: Option<String>,
        /// Tasks at once (default: the number of cores)
        #[arg(long, value_name = "N")]
        slots: Option<u32>,
    },
    /// Submits a job to a cluster
    Submit {
        #[command(flatten)]
        job: JobFile,
        #[command(flatten)]
        limits: RunLimits,
        #[command(flatten)]
        driver: DriverAddress,
        /// Print the job's output until it ends
        #[arg(long)]
        follow: bool,
    },
    /// Lists jobs
    Jobs {
        #[command(flatten)]
        driver: DriverAddress,
    },
    /// Shows one job: batches, stages, receivers
    Job {
        /// Its number or name
        job: String,
        #[command(flatten)]
        driver: DriverAddress,
        /// Print the job's output until it ends
        #[arg(long)]
        follow: bool,
    },
    /// Stops a job after the batches that are due
    Stop {
        /// Its number or name
        job: String,
        #[command(flatten)]
        driver: DriverAddress,
        /// Do not finish batches
        #[arg(long)]
        now: bool,
    },
    /// Checks a job file: names, types, windows, tables
    Validate {
        #[command(flatten)]
        job: JobFile,
    },
    /// Shows how a job runs: streams, stages, where they are cut
    Explain {
        #[command(flatten)]
        job: JobFile,
    },
    /// Shows the accumulators of a job
    Accumulators {
        /// Its number or name
        job: String,
        #[command(flatten)]
        driver: DriverAddress,
        /// Also those without a name of their own
        #[arg(long)]
        all: bool,
        /// What this many of the last batches added, each
        #[arg(long, default_value_t = 0, value_name = "N")]
        batches: u32,
    },
    /// Lists executors
    Executors {
        #[command(flatten)]
        driver: DriverAddress,
    },
    /// Lists the broadcast variables of a job
    Broadcasts {
        /// The job's number or name
        job: String,
        #[command(flatten)]
        driver: DriverAddress,
    },
    /// Gives a broadcast variable a new value, or drops it
    Broadcast {
        /// The job's number or name
        job: String,
        /// The variable
        name: String,
        #[command(flatten)]
        driver: DriverAddress,
        #[command(flatten)]
        change: BroadcastChange,
        /// How the file is read (default: by its extension, text if that says nothing)
        #[arg(long, value_enum, value_name = "FORMAT", requires = "file")]
        format: Option<FileFormat>,
    },
    /// Keeps a stream's batches no longer than its windows need them
    Unpersist {
        /// The job's number or name
        job: String,
        /// The stream
        stream: String,
        #[command(flatten)]
        driver: DriverAddress,
    },
    /// Queries output tables
    Sql {
        query: String,
        #[command(flatten)]
        driver: DriverAddress,
    },
    /// Shows a table as a bar chart that follows it
    Top {
        /// The table, or job.table
        table: String,
        #[command(flatten)]
        driver: DriverAddress,
        /// How often to look
        #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = duration)]
        every: std::time::Duration,
        /// Look this many times, then end
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        /// Bars at most
        #[arg(long, default_value_t = 10, value_name = "N")]
        rows: usize,
    },
    /// Serves the lines of a text file to a socket_text source
    Replay {
        file: PathBuf,
        /// The port to listen on
        #[arg(long)]
        port: u16,
        #[arg(long, default_value = "127.0.0.1")]
        host: String,
        /// Lines a second (default: as fast as they are taken)
        #[arg(long, value_name = "LINES")]
        rate: Option<u64>,
        /// Serve it to every connection, again and again
        #[arg(long = "loop")]
        repeat: bool,
    },
    /// Prints a completion script
    Completions { shell: clap_complete::Shell },
    /// Tells whether something listens at host:port, for health checks
    #[command(hide = true)]
    Probe { address: String },
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("give NAME=VALUE")?;
    if name.is_empty() {
        return Err("give NAME=VALUE".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn duration(text: &str) -> Result<std::time::Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration.is_zero() {
        Err("more than 0".to_owned())
    } else {
        Ok(duration)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_assignment_needs_a_name_and_may_have_any_value() {
        assert_eq!(assignment("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(assignment("=x").is_err() && assignment("x").is_err());
    }
}
