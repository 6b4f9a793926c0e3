/** Documents as files. */

/** Return a text as Markdown: what has a meaning there is escaped, and lines stay lines. */
export function markdown(title, text) {
  const lines = text.split("\n").map((line) =>
    line
      .replace(/[\\`*_[\]<>#&~|]/g, "\\$&")
      .replace(/^(\s*)([-+=])/, "$1\\$2")
      .replace(/^(\s*\d+)([.)])/, "$1\\$2")
      .replace(/^[ \t]+/, (spaces) => "&nbsp;".repeat(spaces.length))
      .trimEnd(),
  );
  const isBroken = (index) => lines[index] !== "" && lines[index + 1];
  const body = lines.map((line, index) => (isBroken(index) ? `${line}\\` : line)).join("\n");
  return `# ${title.replace(/[\\`*_[\]<>#&~|]/g, "\\$&")}\n\n${body.trim()}\n`;
}

/** Return a file's name from a title. */
export function fileName(title, ending) {
  const words = title.normalize("NFC").match(/[\p{L}\p{N}]+/gu) ?? ["untitled"];
  return `${words.join("-").slice(0, 60)}.${ending}`;
}

/** Let the browser save a file. */
export function download(name, type, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
