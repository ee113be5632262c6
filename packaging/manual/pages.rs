//! The manual pages: nfvs(1), and one for each of its commands and of theirs.

use clap::Command;
use clap_mangen::Man;

/// What clap does not know, for nfvs(1).
const MORE: &str = include_str!("nfvs.roff");

/// What nfvs(1) refers to, besides its commands.
const FOREIGN: &[&str] = &["ip-netns", "ipvsadm", "nft"];

/// A manual page.
#[derive(Debug)]
pub(crate) struct Page {
    /// Such as `nfvs-run.1`.
    pub(crate) file_name: String,
    /// Its source, for `man`.
    pub(crate) text: String,
}

/// All pages, as of `date`: `2026-11-21`.
pub(crate) fn pages(date: &str) -> Vec<Page> {
    let mut nfvs = nfvs::cli::command().disable_help_subcommand(true);
    // Each command learns its full name, `nfvs-run`.
    nfvs.build();
    let names: Vec<&str> = nfvs.get_subcommands().filter_map(Command::get_display_name).collect();
    let mut pages = vec![page(&nfvs, date, MORE, &[&names[..], FOREIGN].concat())];
    for command in nfvs.get_subcommands() {
        let mut others = vec!["nfvs"];
        others.extend(names.iter().filter(|name| Some(**name) != command.get_display_name()));
        let below: Vec<&str> = command.get_subcommands().filter_map(Command::get_display_name).collect();
        pages.push(page(command, date, "", &[&below[..], &others].concat()));
        let above = command.get_display_name().unwrap_or_default();
        pages.extend(command.get_subcommands().map(|command| page(command, date, "", &["nfvs", above])));
    }
    pages
}

/// One page; `more` goes between what clap knows and the other pages.
fn page(command: &Command, date: &str, more: &str, others: &[&str]) -> Page {
    let name = command.get_display_name().unwrap_or("nfvs");
    let page = Man::new(command.clone())
        .title(name.to_uppercase())
        .source(concat!("nfvs ", env!("CARGO_PKG_VERSION")))
        .date(date)
        .manual("nfvs");
    let mut text = Vec::new();
    let written = page
        .render_title(&mut text)
        .and_then(|()| page.render_name_section(&mut text))
        .and_then(|()| page.render_synopsis_section(&mut text))
        .and_then(|()| page.render_description_section(&mut text))
        .and_then(|()| page.render_options_section(&mut text))
        .and_then(|()| match command.has_subcommands() {
            true => page.render_subcommands_section(&mut text),
            false => Ok(()),
        });
    written.expect("a Vec takes everything");
    let mut text = String::from_utf8(text).expect("clap writes UTF-8");
    text.push_str(more);
    text.push_str(".SH SEE ALSO\n");
    let others: Vec<String> = others.iter().map(|other| reference(other)).collect();
    text.push_str(&others.join(" ,\n"));
    text.push('\n');
    Page { file_name: page.get_filename(), text }
}

/// The name of a page in bold, its section in roman: ours are in section 1, others' in 8.
fn reference(page: &str) -> String {
    let section = if FOREIGN.contains(&page) { 8 } else { 1 };
    format!(".BR {} ({section})", page.replace('-', "\\-"))
}
