// The cached ${name}: `${cache}` has for each position of a head ${chunks} chunks of four numbers of type ${kv_type}.
// Positions of a head within a block are adjacent: row (block * kv_heads + head) * block_tokens + position.
## f16 may be read two chunks at a time: 16 bytes.
# set element = {"f32": "vec4<f32>", "f16": "vec4<u32>" if wide == 2 else "vec2<u32>", "q8_0": "u32"}[kv_type]
# set words = chunks + (chunks + 7) // 8 if kv_type == "q8_0" else chunks // wide
@group(0) @binding(${binding}) var<storage, ${access}> ${cache}: array<${element}>;
alias ${cache}_kept = ${"vec2<u32>" if kv_type == "q8_0" else element};

// ${"Chunks 2c and 2c + 1" if wide == 2 else "Chunk c"} of a row, as kept.
fn ${cache}_load(row: u32, c: u32) -> ${cache}_kept {
# if kv_type == "q8_0"
    // A scale for 8 chunks lies behind the codes.
    return vec2(${cache}[row * ${words}u + c], ${cache}[row * ${words}u + ${chunks}u + c / 8u]);
# else
    return ${cache}[row * ${words}u + c];
# endif
}
# for part in range(wide)
fn ${cache}_part${part}(kept: ${cache}_kept) -> vec4<f32> {
# if kv_type == "f32"
    return kept;
# elif kv_type == "f16"
    return vec4(unpack2x16float(kept[${2 * part}]), unpack2x16float(kept[${2 * part + 1}]));
# else
    return vec4<f32>(unpack4xI8(kept.x)) * bitcast<f32>(kept.y);
# endif
}
# endfor
# if access == "read_write"

// Chunk c of a head of `${name}`, as it comes back from the cache; if `write`, it also goes to row `to` of it.
fn ${name}_kept(row: u32, head: u32, c: u32, position: u32, to: u32, write: bool) -> vec4<f32> {
    let x = ${name}_chunk(row, head, c, position);
# if kv_type == "f32"
    if (write) { ${cache}[to * ${words}u + c] = x; }
    return x;
# elif kv_type == "f16"
    let kept = vec2(half_bits(x.x) | half_bits(x.y) << 16u, half_bits(x.z) | half_bits(x.w) << 16u);
# if wide == 2
    if (write) {
        ${cache}[to * ${words}u + c / 2u][c % 2u * 2u] = kept.x;
        ${cache}[to * ${words}u + c / 2u][c % 2u * 2u + 1u] = kept.y;
    }
# else
    if (write) { ${cache}[to * ${words}u + c] = kept; }
# endif
    return vec4(unpack2x16float(kept.x), unpack2x16float(kept.y));
# else
    var largest = 0.0;
    for (var i = c / 8u * 8u; i < min(c / 8u * 8u + 8u, ${chunks}u); i++) {
        let four = abs(${name}_chunk(row, head, i, position));
        largest = max(largest, max(max(four.x, four.y), max(four.z, four.w)));
    }
    let scale = unpack2x16float(half_bits(largest / 127.0)).x;
    var codes = vec4(0i);
    if (scale > 0.0) { codes = vec4<i32>(clamp(round(x / scale), vec4(-127.0), vec4(127.0))); }
    if (write) {
        ${cache}[to * ${words}u + c] = pack4xI8(codes);
        if (c % 8u == 0u) { ${cache}[to * ${words}u + ${chunks}u + c / 8u] = bitcast<u32>(scale); }
    }
    return vec4<f32>(codes) * scale;
# endif
}
# endif
