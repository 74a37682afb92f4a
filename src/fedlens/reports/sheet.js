{
  const sheet = document.getElementById("sheet");
  const chosen = document.getElementById("class");
  const choose = () => {
    for (const tile of sheet.children) tile.hidden = chosen.value !== "" && tile.dataset.class !== chosen.value;
  };
  chosen.addEventListener("change", choose);
  choose();  // browsers keep a choice when the page is loaded again

  const maps = document.getElementById("maps");
  const show = () => sheet.classList.toggle("bare", !maps.checked);
  maps?.addEventListener("change", show);
  if (maps) show();
}
