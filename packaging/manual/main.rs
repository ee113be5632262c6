//! Writes the manual pages and the completions of `nfvs`, for the Debian package. DATE stands at the foot of the pages:
//!
//! ```text
//! cargo run --example manual -- FOLDER DATE
//! ```
//!
//! Both come from the command line as clap knows it; what that cannot know about files, settings and examples stands in
//! `nfvs.roff` beside this file. This is not a command of `nfvs` itself: it would come with every installation, for
//! nobody's use.

mod pages;

use clap_complete::{Shell, generate_to};
use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [folder, date] = &arguments[..] else {
        return Err(io::Error::other("usage: manual FOLDER DATE"));
    };
    let folder = Path::new(folder);
    fs::create_dir_all(folder)?;
    for page in pages::pages(date) {
        fs::write(folder.join(page.file_name), page.text)?;
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut nfvs::cli::command(), "nfvs", folder)?;
    }
    Ok(())
}
