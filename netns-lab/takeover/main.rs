//! Clients of a pair of directors, for `lab vm takeover`.
//!
//! ```text
//! takeover-clients FILE DOWNLOADS FLOWS PIECE MILLISECONDS VIP...
//! ```
//!
//! As many download `FILE`, which is `/files/large` to the web servers, from port 80 of the virtual addresses, and
//! exchange datagrams with port 7. Says `begun` when all have begun, to each line of its input how many downloads are
//! through, and in the end how it went; what is lost or changed ends it with 1.

mod clients;

use anyhow::{Context, bail};
use clients::{Clients, Wanted};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn number<N: FromStr>(word: &str) -> anyhow::Result<N> {
    word.parse().ok().with_context(|| format!("{word:?} is no number that fits"))
}

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [path, downloads, flows, piece, millis, vips @ ..] = words.as_slice() else {
        bail!("usage: takeover-clients FILE DOWNLOADS FLOWS PIECE MILLISECONDS VIP...");
    };
    let wanted = Wanted {
        downloads: number(downloads)?,
        flows: number(flows)?,
        piece: number(piece)?,
        every: Duration::from_millis(number(millis)?),
    };
    let file = Arc::new(std::fs::read(path).with_context(|| path.clone())?);
    let endpoints = |port| -> anyhow::Result<Vec<SocketAddr>> {
        let address = |vip: &String| vip.parse::<IpAddr>().with_context(|| format!("{vip:?} is no address"));
        vips.iter().map(|vip| Ok(SocketAddr::new(address(vip)?, port))).collect()
    };
    let (web, echo) = (endpoints(80)?, endpoints(7)?);

    let clients = Clients::new(wanted);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let told = Arc::clone(&clients);
        tokio::spawn(async move {
            while !told.have_begun() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            println!("begun");
        });
        let told = Arc::clone(&clients);
        // Reading cannot be given up, and so needs a thread; it ends with the program.
        std::thread::spawn(move || {
            for _ in std::io::stdin().lines() {
                println!("{}", told.finished.load(Ordering::Relaxed));
            }
        });
        clients.run(&file, &web, &echo).await
    })?;
    println!(
        "{} downloads of {} bytes arrived whole, {flows} flows of datagrams had their own answers only; longest stall {} ms",
        clients.finished.load(Ordering::Relaxed),
        file.len(),
        clients.longest_stall().as_millis()
    );
    Ok(())
}
