#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| loopy_fuzz::check(loopy_fuzz::Target::Frontmatter, data));
