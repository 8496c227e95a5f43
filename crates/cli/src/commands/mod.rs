//! One module for each group of commands.

mod broadcast;
mod cluster;
mod demo;
mod follow;
mod inspect;
mod job_file;
mod replay;
mod run;
mod submit;
mod top;

use anyhow::{Context, Result};
use clap::CommandFactory;
use tidemill_config::{Config, Loader};
use tidemill_engine::Registry;

use self::run::Embedded;
use crate::args::{Cli, Command, Global};
use crate::logging;

pub(crate) async fn execute(cli: Cli, registry: &Registry) -> Result<()> {
    let Cli { global, command } = cli;
    match command {
        Command::Driver { bind, min_executors } => {
            let mut loader = loader(&global);
            if let Some(bind) = bind {
                loader = loader.set("driver.bind", bind);
            }
            if let Some(count) = min_executors {
                loader = loader.set("driver.min_executors", count.to_string());
            }
            cluster::driver(&service(loader)?, registry).await
        }
        Command::Executor {
            driver,
            bind,
            advertise,
            slots,
        } => {
            let mut loader = loader(&global);
            let flags = [
                ("executor.driver", driver),
                ("executor.bind", bind),
                ("executor.advertise", advertise),
            ];
            for (key, value) in flags {
                if let Some(value) = value {
                    loader = loader.set(key, value);
                }
            }
            if let Some(slots) = slots {
                loader = loader.set("executor.slots", slots.to_string());
            }
            cluster::executor(&service(loader)?, registry).await
        }
        Command::Run { job, limits, executors } => {
            let config = &embedded(&global)?;
            run::run(Embedded { config, registry }, &job, &limits, executors, global.output).await
        }
        Command::Demo { batches, executors } => demo::demo(&embedded(&global)?, batches, executors).await,
        Command::Validate { job } => {
            let config = &embedded(&global)?;
            run::validate(Embedded { config, registry }, &job, global.output).await
        }
        Command::Explain { job } => {
            let config = &embedded(&global)?;
            run::explain(Embedded { config, registry }, &job, global.output).await
        }
        Command::Submit {
            job,
            limits,
            driver,
            follow,
        } => {
            client_logging(&global);
            submit::submit(&driver.driver, &job, &limits, follow, global.output).await
        }
        Command::Jobs { driver } => inspect::jobs(&driver.driver, global.output).await,
        Command::Job { job, driver, follow } => inspect::job(&driver.driver, &job, follow, global.output).await,
        Command::Stop { job, driver, now } => inspect::stop(&driver.driver, &job, now, global.output).await,
        Command::Accumulators {
            job,
            driver,
            all,
            batches,
        } => inspect::accumulators(&driver.driver, &job, all, batches, global.output).await,
        Command::Executors { driver } => inspect::executors(&driver.driver, global.output).await,
        Command::Broadcasts { job, driver } => broadcast::list(&driver.driver, &job, global.output).await,
        Command::Broadcast {
            job,
            name,
            driver,
            change,
            format,
        } => {
            let variable = broadcast::Variable { job, name };
            broadcast::change(&driver.driver, &variable, &change, format, global.output).await
        }
        Command::Unpersist { job, stream, driver } => {
            inspect::unpersist(&driver.driver, &job, &stream, global.output).await
        }
        Command::Sql { query, driver } => inspect::sql(&driver.driver, &query, global.output).await,
        Command::Top {
            table,
            driver,
            every,
            count,
            rows,
        } => {
            let look = top::Look { every, count, rows };
            top::top(&driver.driver, &table, look, global.output).await
        }
        Command::Replay {
            file,
            port,
            host,
            rate,
            repeat,
        } => {
            client_logging(&global);
            replay::replay(&file, &host, port, rate, repeat).await
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "tidemill", &mut std::io::stdout());
            Ok(())
        }
        Command::Probe { address } => {
            let connected = tokio::net::TcpStream::connect(&address).await;
            connected.with_context(|| format!("nothing listens at {address}"))?;
            Ok(())
        }
    }
}

fn loader(global: &Global) -> Loader {
    let loader = Loader::new().file(global.config.as_deref());
    match &global.log {
        Some(filter) => loader.set("log.filter", filter),
        None => loader,
    }
}

/// Settings and logging of a process of a cluster.
fn service(loader: Loader) -> Result<Config> {
    let config = loader.load()?;
    logging::start(&config.log.filter, config.log.format);
    Ok(config)
}

/// Settings and logging of a cluster in this process: only warnings, unless asked for more.
fn embedded(global: &Global) -> Result<Config> {
    let config = loader(global).load()?;
    logging::start(global.log.as_deref().unwrap_or("warn"), config.log.format);
    Ok(config)
}

fn client_logging(global: &Global) {
    logging::start(
        global.log.as_deref().unwrap_or("warn"),
        tidemill_config::LogFormat::Human,
    );
}
