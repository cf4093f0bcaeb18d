const editsMax = 2;
/** Below it two edits make one word of another: HOME of HOST, PATH of PORT. */
const lengthMin = 6;

/** Names that are no variable but look like one, each with what was probably meant. */
export function misspelt(
  names: string[],
  known: readonly string[],
): [name: string, meant: string][] {
  const there = new Set(known);
  return names.flatMap((name) => {
    if (there.has(name) || name.length < lengthMin) return [];
    const [nearest] = known
      .map((meant) => ({ meant, edits: editsBetween(name.toUpperCase(), meant) }))
      .toSorted((a, b) => a.edits - b.edits);
    return nearest && nearest.edits <= editsMax ? [[name, nearest.meant]] : [];
  });
}

/** How many letters are put in, left out or changed (Levenshtein). */
function editsBetween(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const changed = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(changed, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
