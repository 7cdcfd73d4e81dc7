## RMS norms of a workgroup's query heads and of its key head, as heads.wgsl wants them; `norm_lanes` share a head.
# if norms.q is not none or norms.k is not none
# set lanes = norm_lanes
// Of each query head, then of the key head: parts of the sum of squares, and 1 / sqrt(mean + eps).
var<workgroup> squares: array<f32, ${(heads + 1) * lanes}>;
var<workgroup> factors: array<f32, ${heads + 1}>;
var<private> top_head: u32;
fn q_factor(head: u32) -> f32 { return factors[head - top_head]; }
fn k_factor(head: u32) -> f32 { return factors[${heads}]; }

fn norm_heads(row: u32, kv_head: u32, first_head: u32, li: u32) {
    top_head = kv_head * ${per_kv}u + first_head;
    let place = li / ${lanes}u;
    var sum = 0.0;
# if norms.q is not none
    if (place < ${heads}u) {
        let head = kv_head * ${per_kv}u + min(first_head + place, ${per_kv - 1}u);
        let begin = row * ${q.stride}u + ${q.offset}u + head * ${head_dim}u;
        for (var i = begin + li % ${lanes}u; i < begin + ${head_dim}u; i += ${lanes}u) { sum = fma(q[i], q[i], sum); }
    }
# endif
# if norms.k is not none
    if (place == ${heads}u) {
        let begin = row * ${k.stride}u + ${k.offset}u + kv_head * ${head_dim}u;
        for (var i = begin + li % ${lanes}u; i < begin + ${head_dim}u; i += ${lanes}u) { sum = fma(k[i], k[i], sum); }
    }
# endif
    if (place <= ${heads}u) { squares[li] = sum; }
    workgroupBarrier();
    if (li <= ${heads}u) {
        var all = squares[li * ${lanes}u];
        for (var i = 1u; i < ${lanes}u; i++) { all += squares[li * ${lanes}u + i]; }
        let eps = select(${norms.q or 0.0}, ${norms.k or 0.0}, li == ${heads}u);
        factors[li] = 1.0 / sqrt(all / ${head_dim}.0 + eps);
    }
    workgroupBarrier();
}
# endif
