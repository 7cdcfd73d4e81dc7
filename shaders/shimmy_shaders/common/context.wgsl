// What a position that a row does not see scores: its weight is made 0, whatever the largest score.
const UNSEEN = -3.4028234e38;

// The first position that a row at `position` sees.
fn first_seen(position: u32) -> u32 {
# if window
    return max(position + 1u, ${window}u) - ${window}u;
# else
    return 0u;
# endif
}

# if softcap
# import "shimmy/common/tanh.wgsl" as tanh
${tanh.functions(scores)}
# endif
fn score_of(product: ${scores}) -> ${scores} {
# if softcap
    return tanh_of(product * ${scale} / ${softcap}) * ${softcap};
# else
    return product * ${scale};
# endif
}

// Which row of the cached keys, and values, a position of a sequence has.
fn cache_row(slot: u32, kv_head: u32, position: u32) -> u32 {
    let block = step_block(slot, position / ${block_tokens}u);
    return (block * ${kv_heads}u + kv_head) * ${block_tokens}u + position % ${block_tokens}u;
}
// The same, but for a position before `seen` or past `last` another row, of a block that the sequence has.
fn near_row(slot: u32, kv_head: u32, position: u32, seen: u32, last: u32) -> u32 {
    let index = clamp(position / ${block_tokens}u, seen / ${block_tokens}u, last / ${block_tokens}u);
    return (step_block(slot, index) * ${kv_heads}u + kv_head) * ${block_tokens}u + position % ${block_tokens}u;
}
