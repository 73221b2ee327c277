"""How fast fluxserve is, each figure beside what it is measured against. README.md tells what each benchmark does."""
