// y += factor * (scale * B a + offset), where a is the row of A that belongs to a row's token; a itself without B.

@group(0) @binding(0) var<storage, read> chosen: array<i32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> step: array<u32>;
@group(0) @binding(3) var<storage, read> lora: array<vec4<u32>>;

# include "shimmy/common/step.wgsl"
# include "shimmy/common/lora.wgsl"

// Column `column` of B a.
fn product(term: Term, token: u32, column: u32) -> f32 {
    if (term.b == 0u) {
        if (term.a == 0u) { return 0.0; }
        let eight = lora_chunk(term.a, token, term.a_chunks, column / 8u, term.half);
        return select(eight[0], eight[1], column % 8u >= 4u)[column % 4u];
    }
    var sum = vec4<f32>();
    for (var c = 0u; c < term.b_chunks; c++) {
        let a = lora_chunk(term.a, token, term.a_chunks, c, term.half);
        let b = lora_chunk(term.b, column, term.b_chunks, c, term.half);
        sum = fma(b[1], a[1], fma(b[0], a[0], sum));
    }
    return (sum.x + sum.y) + (sum.z + sum.w);
}

@compute @workgroup_size(${workgroup})
fn main(@builtin(workgroup_id) at: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let row = at.x;
    let entries = lora_entries(row);
    if (entries == 0u) { return; }
    var token = step_token(row);
    if (token < 0) { token = chosen[-1 - token]; }
    for (var k = 0u; k < ${lora.most}u; k++) {
        let number = lora_number(entries, k);
        if (number == 0u) { break; }
        let term = lora_term(number, 0u);
        for (var column = li; column < ${width}u; column += ${workgroup}u) {
            let added = fma(term.scale, product(term, u32(token), column), lora_offset(term, column));
            let i = row * ${width}u + column;
            y[i] = fma(lora_factor(entries, k), added, y[i]);
        }
    }
}
